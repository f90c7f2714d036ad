"""Spares: who registers as one, and when it is given the place of a worker."""

import pytest

from reknit.coordinator import events
from reknit.coordinator.view import phase_of, status_of
from reknit.protocol.agents import (
    Begin,
    End,
    Heartbeat,
    Leaving,
    Refuse,
    SlotReport,
    Stopped,
    Welcome,
)
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import Phase
from reknit.protocol.status import MembershipPhase, Promotion

SPARE = 20
"""Its connection."""


def spare(job, index: int = 0, **more):
    """A spare registers, warm unless told otherwise."""
    known = {"name": f"s{index}", "connection": SPARE + index, "role": "spare", "num_warm": 1}
    return job.register(index, **{**known, "node": f"ns{index}", **more})


def beat(job, connection: int, num_warm: int = 1, place: int | None = None):
    message = Heartbeat(slots=(), store=job.endpoint(), num_warm=num_warm, place=place)
    return job.hear(connection, message)


def pass_time(job, seconds: float, *workers: int) -> None:
    """With heartbeats of these workers and of all spares."""
    for _ in range(round(seconds / 0.1)):
        job.now += 0.1
        for worker in workers:
            job.beat(worker)
        for agent in job.state.spares:
            beat(job, agent.connection, place=agent.claim)
        job.feed(events.Tick())


def lose(job, replica: int, *others: int):
    """A worker falls silent, and the others leave the generation."""
    pass_time(job, 2.2, *others)
    assert f"w{replica}" not in job.state.agents
    return job.stop(*others)


def confirm(job, name: str):
    return job.feed(events.ConfirmedGone(name))


def test_a_spare_is_counted_and_gets_no_rank(drive) -> None:
    job = drive(num_spares=2)
    assert [type(m) for m in spare(job)] == [Welcome]
    spare(job, 1, num_warm=0)
    begin = job.begin()
    assert {place.agent for place in begin.places} == {"w0", "w1"}
    status = status_of(job.state)
    assert (status.num_agents, status.num_expected_agents, status.num_spares) == (2, 2, 1)
    beat(job, SPARE + 1)
    assert status_of(job.state).num_spares == 2


def test_a_spare_takes_the_place_of_a_lost_worker_at_once(drive) -> None:
    job = drive(num_workers=3, num_spares=1)
    spare(job)
    job.begin()
    begins = [m for m in lose(job, 1, 0, 2) if isinstance(m, Begin)]
    assert len(begins) == 3
    taken = begins[0].places[1]
    assert (taken.rank, taken.agent, taken.replica, taken.node) == (1, "s0", 1, "ns0")
    assert "SparePromoted" in job.reasons()
    assert status_of(job.state).num_spares == 0
    assert status_of(job.state).promotions == (), "it may not have heard of it"
    beat(job, SPARE, place=1)
    assert status_of(job.state).promotions == (Promotion(agent="s0", replica=1, instead_of="w1"),)


def test_half_of_the_workers_and_a_spare_wait_until_the_others_are_known_to_be_gone(drive) -> None:
    """Else the other half and another spare might go on as well."""
    job = drive(num_spares=1)
    spare(job)
    job.begin()
    assert lose(job, 1, 0) == []
    assert phase_of(job.state) is MembershipPhase.WAITING
    assert status_of(job.state).missing == ("w1",)
    assert [type(m) for m in confirm(job, "w1")] == [Begin, Begin]
    assert status_of(job.state).missing == ()


def test_a_worker_that_is_known_to_be_gone_is_not_waited_for(drive) -> None:
    job = drive(num_spares=1)
    spare(job)
    job.begin()
    job.disconnect(1)
    assert [type(m) for m in confirm(job, "w1")] == [End]
    assert [type(m) for m in job.stop(0)] == [Begin, Begin]
    assert "w1 on n1 is gone." in [record.message for record in job.records]


def test_a_worker_that_is_connected_is_not_believed_to_be_gone(drive) -> None:
    job = drive(num_spares=1)
    spare(job)
    job.begin()
    assert confirm(job, "w1") == []
    assert job.state.gone == frozenset()


def test_before_the_first_generation_the_workers_are_waited_for(drive) -> None:
    job = drive(num_workers=3, num_spares=1)
    job.register(0)
    job.register(1)
    assert [type(m) for m in spare(job)] == [Welcome]
    assert job.wait(1.0, 0, 1) == []
    assert status_of(job.state).missing == ()


def test_a_worker_that_has_lost_its_connection_keeps_its_place(drive) -> None:
    job = drive(num_workers=3, num_spares=1)
    spare(job)
    job.begin()
    job.exit(0, signal=9)
    job.disconnect(1)
    job.hear(2, Stopped(generation=job.state.last_generation, store=job.endpoint()))
    assert job.stop(0, 2) == []
    old = Generation(incarnation=1, counter=1)
    sent = job.register(1, connection=9, generation=old)
    assert [type(m) for m in sent] == [Welcome, End]


def test_a_worker_that_must_go_leaves_its_place_to_a_spare(drive) -> None:
    job = drive(num_spares=1, is_replicated=True)
    spare(job)
    job.begin()
    job.hear(2, Leaving(grace_seconds=30))
    job.wait(1.2, 0, 1)
    generation = job.generation
    sent = []
    for replica in (0, 1):
        stopped = Stopped(generation=generation, store=job.endpoint(), moved=True)
        sent += job.hear(replica + 1, stopped)
    [_, begin] = [m for m in sent if isinstance(m, Begin)]
    assert [place.agent for place in begin.places] == ["w0", "s0"]
    beat(job, SPARE, place=1)
    [promotion] = status_of(job.state).promotions
    assert promotion.instead_of == "w1"
    assert job.state.failures_by_class == {}


def test_a_warm_spare_comes_first(drive) -> None:
    job = drive(num_workers=3, num_spares=2)
    spare(job, 0, num_warm=0)
    spare(job, 1)
    job.begin()
    for _ in range(2):
        job.disconnect(2)
    confirm(job, "w2")
    begins = [m for m in job.stop(0, 1) if isinstance(m, Begin)]
    assert [place.agent for place in begins[0].places] == ["w0", "w1", "s1"]


def test_a_pod_whose_processes_compute_wrong_numbers_twice_is_sent_away(drive) -> None:
    job = drive(num_workers=3, num_spares=1)
    spare(job)
    job.begin()
    assert not any(isinstance(m, Refuse) for m in job.fail(1, "nan", ExitClass.WRONG_NUMBERS))
    job.stop()
    assert [member.agent for member in job.state.current.members] == ["w0", "w1", "w2"]
    [refusal] = [m for m in job.fail(1, "nan", ExitClass.WRONG_NUMBERS) if isinstance(m, Refuse)]
    assert refusal.final
    job.stop(0, 2)
    assert [member.agent for member in job.state.current.members] == ["w0", "s0", "w2"]


def test_two_workers_are_replaced_at_once_by_two_spares(drive) -> None:
    job = drive(num_workers=5, num_spares=2)
    spare(job, 0)
    spare(job, 1)
    job.begin()
    for replica in (1, 3):
        job.disconnect(replica)
        confirm(job, f"w{replica}")
    begins = [m for m in job.stop(0, 2, 4) if isinstance(m, Begin)]
    assert [place.agent for place in begins[0].places] == ["w0", "s0", "w2", "s1", "w4"]
    assert [place.replica for place in begins[0].places] == [0, 1, 2, 3, 4]


def promoted(drive, **rules):
    job = drive(num_workers=3, num_spares=1, **rules)
    spare(job)
    job.begin()
    lose(job, 1, 0, 2)
    return job


def test_a_promotion_that_was_not_heard_is_told_again(drive) -> None:
    job = promoted(drive)
    sent = spare(job, connection=30)
    assert [type(m) for m in sent] == [Welcome, Begin]


def test_the_replaced_worker_finds_its_place_taken(drive) -> None:
    job = promoted(drive)
    assert job.register(1, connection=9) == [Refuse(reason="worker 1 is s0", final=True)]
    assert job.register(1, name="new", connection=9) == [
        Refuse(reason="worker 1 is s0", final=False)
    ]


def test_the_loss_of_a_spare_disturbs_nobody(drive) -> None:
    job = drive(num_spares=1)
    spare(job)
    job.begin()
    assert job.wait(2.4, 0, 1) == []
    assert "s0" not in job.state.agents
    assert job.state.current is not None
    assert not job.state.current.faults


OLD = Generation(incarnation=1, counter=4)


def holds(rank: int, step: int = 7):
    slot = SlotReport(slot=0, pid=1, generation=OLD, rank=rank, phase=Phase.STEP, step=step)
    return {"generation": OLD, "world_size": 2, "promised": 1, "slots": (slot,)}


def test_a_new_coordinator_finds_the_spare_in_its_place(drive) -> None:
    job = drive(incarnation=2, num_spares=1)
    spare(job, place=1, **holds(1))
    job.register(0, **holds(0))
    assert job.generation == OLD
    assert status_of(job.state).promotions == (Promotion(agent="s0", replica=1),)


@pytest.mark.parametrize("stale", [None, Generation(incarnation=1, counter=2)])
def test_of_two_that_had_a_place_the_later_one_has_it(drive, stale) -> None:
    job = drive(incarnation=2, num_spares=1)
    job.register(1, generation=stale, promised=1)
    spare(job, place=1, **holds(1))
    assert job.hung_up == [2]
    job.register(0, **holds(0))
    assert job.generation == OLD
    assert {member.agent for member in job.state.current.members} == {"w0", "s0"}
    [refusal] = job.register(1, connection=9, generation=stale, promised=1)
    assert refusal.final


def test_one_whose_place_is_taken_meanwhile_is_a_spare_again(drive) -> None:
    job = drive(incarnation=2, num_spares=1)
    job.register(1, **holds(1))
    older = Generation(incarnation=1, counter=2)
    assert [type(m) for m in spare(job, place=1, generation=older, promised=1)] == [Welcome]
    sent = job.register(0, **holds(0))
    assert job.generation == OLD
    assert [type(m) for m in sent] == [Welcome, End], "what is left there is ended"
    assert status_of(job.state).promotions == ()


def test_one_that_had_a_place_gets_it_back_when_it_is_empty_again(drive) -> None:
    """Nobody else can have it, whatever is known of the generation before."""
    job = drive(incarnation=2, num_spares=2)
    older = Generation(incarnation=1, counter=2)
    job.register(1, generation=older, promised=1)
    spare(job, 0)
    spare(job, 1, place=1)
    job.register(0, name="new")
    pass_time(job, 5.2, 0, 1)
    job.hear(2, Leaving(grace_seconds=30))
    job.stop(1)
    begins = [message for _, message in job.sent if isinstance(message, Begin)]
    assert [place.agent for place in begins[-1].places] == ["new", "s1"]


ENDED = {"latest": OLD, "world_size": 2, "promised": 1}
"""What an agent says that has left the generation, which an earlier coordinator has ended."""


def test_a_spare_is_promoted_by_a_coordinator_that_comes_between_two_generations(drive) -> None:
    job = drive(incarnation=2, num_spares=1, num_workers=3)
    for replica in (0, 1):
        job.register(replica, **ENDED | {"world_size": 3})
    spare(job, 0)
    pass_time(job, 5.2, 0, 1)
    assert [member.agent for member in job.state.current.members] == ["w0", "w1", "s0"]


def test_a_coordinator_between_two_generations_needs_the_majority_of_the_last(drive) -> None:
    job = drive(incarnation=2, num_spares=1)
    job.register(0, **ENDED)
    spare(job, 0)
    pass_time(job, 30, 0)
    assert job.state.current is None


def test_an_older_generation_gives_way_to_one_that_is_over_already(drive) -> None:
    job = drive(incarnation=2)
    older = Generation(incarnation=1, counter=2)
    slot = SlotReport(slot=0, pid=1, generation=older, rank=1, phase=Phase.STEP, step=3)
    job.register(0, **ENDED)
    sent = job.register(1, generation=older, latest=older, world_size=2, slots=(slot,), promised=1)
    assert [type(message) for message in sent] == [Welcome, End]
    assert job.state.previous.id == OLD


def test_a_smaller_world_grows_by_a_spare(drive) -> None:
    job = drive(num_workers=3, num_spares=1, may_shrink=True)
    job.begin()
    job.wait(2.2, 0, 1)
    job.stop(0, 1)
    job.wait(10.2, 0, 1)
    assert len(job.state.current.members) == 2
    job.step(1, 0, 1)
    sent = spare(job)
    assert [m.kind for m in sent] == ["welcome", "drain", "drain"]


def test_the_word_on_a_pod_comes_too_late_for_a_job_that_is_over(drive) -> None:
    job = drive()
    job.begin()
    job.finish(0)
    job.finish(1)
    assert job.state.conclusion is not None
    job.disconnect(1)
    num_records = len(job.records)
    assert confirm(job, "w1") == []
    assert len(job.records) == num_records
