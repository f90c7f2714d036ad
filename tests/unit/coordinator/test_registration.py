import pytest

from reknit.protocol.agents import Begin, Conclude, End, Heartbeat, Refuse, Welcome
from reknit.protocol.base import Endpoint, Generation

OLD = Generation(incarnation=1, counter=3)


def take_over(job, replica, **more):
    slots = (job.slot(replica, OLD, step=7, **more.pop("slot", {})),)
    return job.register(replica, generation=OLD, promised=1, slots=slots, **more)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 7}, "protocol version 7 is not understood here"),
        ({"role": "spare"}, "the job has no spare 0, only 0 of them"),
        ({"num_slots": 4}, "a worker must have 1 places, not 4"),
    ],
)
def test_an_agent_that_does_not_fit_is_sent_away(drive, change, sentence) -> None:
    job = drive()
    assert job.register(0, **change) == [Refuse(reason=sentence, final=True)]
    assert job.hung_up == [1]


def test_a_worker_beyond_the_last_is_sent_away(drive) -> None:
    job = drive()
    [refusal] = job.register(2)
    assert refusal.reason == "the job has no worker 2, only 2 of them"


def test_a_replacement_waits_until_its_predecessor_is_given_up(drive) -> None:
    job = drive()
    job.begin()
    assert job.register(1, name="new", connection=8) == [
        Refuse(reason="worker 1 is w1", final=False)
    ]
    job.wait(2.2, 0)
    assert isinstance(job.register(1, name="new", connection=9)[0], Welcome)


def test_one_that_was_given_up_finds_its_place_taken(drive) -> None:
    job = drive()
    job.begin()
    job.wait(2.2, 0)
    job.register(1, name="new", connection=8)
    [refusal] = job.register(1, connection=9)
    assert refusal.final


def test_one_that_was_given_up_may_come_back_to_a_free_place(drive) -> None:
    job = drive()
    job.begin()
    old = job.generation
    job.wait(2.2, 0)
    sent = job.register(1, connection=9, generation=old)
    assert [type(m) for m in sent] == [Welcome, End]


def test_a_higher_promise_silences_the_coordinator_for_good(drive) -> None:
    job = drive()
    job.begin()
    [refusal] = job.register(1, connection=9, promised=2)
    assert refusal.final is False
    assert job.stepped_down == [2]
    assert job.exit(0, signal=9) == []
    assert job.wait(10) == []


def test_a_stranger_is_hung_up_on(drive) -> None:
    job = drive()
    beat = Heartbeat(slots=(), store=Endpoint(host="h", port=1))
    assert job.hear(5, beat) == []
    assert job.hung_up == [5]


def test_a_second_connection_takes_the_place_of_the_first(drive) -> None:
    job = drive()
    job.begin()
    job.register(1, connection=9, generation=job.generation)
    assert job.hung_up == [2]
    assert job.disconnect(1) == []
    assert job.state.agents["w1"].connection == 9


def test_an_intact_generation_goes_on(drive) -> None:
    job = drive(incarnation=2)
    assert [type(m) for m in take_over(job, 0)] == [Welcome]
    assert job.state.current is None
    assert [type(m) for m in take_over(job, 1)] == [Welcome]
    assert job.generation == OLD
    assert job.state.steps.committed == 7
    job.step(8)
    assert job.state.steps.committed == 8


def test_a_smaller_generation_is_intact_as_well(drive) -> None:
    job = drive(incarnation=2, num_workers=3)
    take_over(job, 0, world_size=2)
    take_over(job, 1, world_size=2)
    assert job.generation == OLD


def test_what_ended_meanwhile_ends_the_generation(drive) -> None:
    from reknit.protocol.agents import Exited
    from reknit.protocol.outcome import ExitClass, ProcessExit

    job = drive(incarnation=2)
    take_over(job, 0)
    ended = ProcessExit(exit_class=ExitClass.KILLED, signal=9)
    job.hear(1, Exited(generation=OLD, slot=0, rank=0, exit=ended))
    sent = take_over(job, 1)
    assert [type(m) for m in sent] == [Welcome, End, End]


def test_ranks_that_finished_meanwhile_are_known(drive) -> None:
    job = drive(incarnation=2)
    take_over(job, 0, slot={"finished": True})
    sent = take_over(job, 1, slot={"finished": True})
    assert [type(m) for m in sent] == [Welcome, Conclude, Conclude]


def test_a_generation_with_a_missing_rank_is_ended(drive) -> None:
    job = drive(incarnation=2)
    take_over(job, 0)
    sent = job.register(1, name="new")
    assert [type(m) for m in sent] == [Welcome, End]
    assert sent[1].generation == Generation(incarnation=2, counter=0), "agents obey no lower one"
    assert [type(m) for m in job.stop(0)] == [Begin, Begin]
    assert job.generation == Generation(incarnation=2, counter=1)
    assert job.records[-2].message != job.records[-1].message
    assert job.state.recoveries.count == 1


def test_an_agent_that_does_not_come_is_waited_for_only_so_long(drive) -> None:
    job = drive(incarnation=2)
    take_over(job, 0)
    assert job.wait(4.8, 0) == []
    assert [type(m) for m in job.wait(0.4, 0)] == [End]


def test_an_older_generation_beside_an_intact_one_is_ended(drive) -> None:
    job = drive(incarnation=2, num_workers=3)
    older = Generation(incarnation=1, counter=2)
    job.register(2, generation=older, promised=1)
    take_over(job, 0, world_size=2)
    sent = take_over(job, 1, world_size=2)
    assert [type(m) for m in sent] == [Welcome, End]
    assert job.sent[-1][0] == 3
