import pytest

from reknit.coordinator import events
from reknit.coordinator.view import status_of
from reknit.layout import Degrees
from reknit.protocol.agents import Begin, Drain, End, FromSlot, Leaving, Welcome
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import Checkpointed, CopyDiffered, Evaluated, Finished, Resumed, StepDone
from reknit.protocol.status import MembershipPhase


def test_a_generation_begins_when_all_workers_are_there(drive) -> None:
    job = drive(num_workers=3, processes_per_worker=2)
    assert [type(m) for m in job.register(2)] == [Welcome]
    assert [type(m) for m in job.register(0)] == [Welcome]
    sent = job.register(1)
    begin = sent[-1]
    assert [type(m) for m in sent] == [Welcome, Begin, Begin, Begin]
    assert [(p.rank, p.agent, p.slot) for p in begin.places] == [
        (0, "w0", 0),
        (1, "w0", 1),
        (2, "w1", 0),
        (3, "w1", 1),
        (4, "w2", 0),
        (5, "w2", 1),
    ]
    assert begin.world_size == 6
    assert begin.generation == Generation(incarnation=1, counter=1)
    assert (begin.places[2].host, begin.places[2].node) == ("10.0.0.1", "n1")


def test_the_store_is_that_of_rank_0s_agent(drive) -> None:
    job = drive()
    job.register(1)
    job.register(0)
    begin = job.sent[-1][1]
    assert begin.store == job.state.agents["w0"].store


def test_an_exit_ends_the_generation_everywhere_and_the_next_waits_for_all(drive) -> None:
    job = drive()
    job.begin()
    ends = job.exit(1, signal=9)
    assert [(type(m), m.keep) for m in ends] == [(End, True), (End, True)]
    assert job.stop(0) == []
    begins = job.stop(1)
    assert [m.generation.counter for m in begins] == [2, 2]
    assert job.state.failures_by_class == {ExitClass.KILLED: 1}


def test_a_second_exit_in_the_same_generation_changes_nothing(drive) -> None:
    job = drive()
    job.begin()
    old = job.generation
    job.exit(1, signal=9)
    assert job.hear(1, _exited(old, 0)) == []
    assert job.state.recoveries.count == 1


def _exited(generation, rank):
    from reknit.protocol.agents import Exited
    from reknit.protocol.outcome import ProcessExit

    ended = ProcessExit(exit_class=ExitClass.KILLED, signal=9)
    return Exited(generation=generation, slot=0, rank=rank, exit=ended)


def test_an_agent_that_is_not_heard_is_lost_and_its_replacement_taken(drive) -> None:
    job = drive()
    job.begin()
    sent = job.wait(2.2, 0)
    assert [type(m) for m in sent] == [End]
    assert job.hung_up == [2]
    assert "AgentLost" in job.reasons()
    job.stop(0)
    assert job.register(1, name="w1b", connection=7)[-1].places[1].agent == "w1b"


def test_silence_of_the_coordinator_itself_is_not_held_against_the_agents(drive) -> None:
    job = drive()
    job.begin()
    job.wait(0.5, 0, 1)
    job.now += 30
    job.beat(0)
    job.feed(events.Tick())
    assert set(job.state.agents) == {"w0", "w1"}


def test_a_lost_connection_alone_disturbs_nothing(drive) -> None:
    job = drive()
    job.begin()
    assert job.disconnect(1) == []
    again = job.register(1, connection=9, generation=job.generation, slots=(job.slot(1, step=3),))
    assert [type(m) for m in again] == [Welcome]
    assert job.state.current.members[1].step == 3


def test_a_begin_that_was_lost_with_the_connection_is_sent_again(drive) -> None:
    job = drive()
    first = job.begin()
    job.disconnect(1)
    assert job.register(1, connection=9)[-1] == first


def test_an_agent_without_the_processes_it_had_is_a_fault(drive) -> None:
    job = drive()
    job.begin()
    job.beat(1, job.slot(1))
    job.disconnect(1)
    assert End in [type(m) for m in job.register(1, connection=9)]


def test_an_end_reaches_an_agent_that_was_away(drive) -> None:
    job = drive()
    job.begin()
    old = job.generation
    job.disconnect(1)
    job.exit(0, signal=9)
    job.stop(0)
    sent = job.register(1, connection=9, generation=old)
    assert [type(m) for m in sent] == [Welcome, End]
    assert job.state.current is None


@pytest.mark.parametrize(("seconds", "ends"), [(1.9, False), (2.5, True)])
def test_a_silent_rank_is_a_fault(drive, seconds, ends) -> None:
    job = drive()
    job.begin()
    sent = job.beat(1, job.slot(1, silent_seconds=seconds))
    assert (End in [type(m) for m in sent]) is ends


def test_a_rank_that_loads_may_be_silent_for_longer(drive) -> None:
    job = drive()
    job.begin()
    assert job.beat(1, job.slot(1, silent_seconds=10.0, phase="Loading")) == []
    assert job.beat(1, job.slot(1, silent_seconds=31.0, phase="Loading")) != []


def test_ranks_leave_before_their_pod_goes_and_the_replacement_comes(drive) -> None:
    job = drive()
    job.begin()
    job.step(4)
    assert {type(m) for m in job.hear(2, Leaving(grace_seconds=30))} == {Drain}
    assert job.finish(0, 4, left=True) == []
    assert {(type(m), m.keep) for m in job.finish(1, 4, left=True)} == {(End, False)}
    assert job.stop() == []
    job.disconnect(1)
    assert set(job.state.agents) == {"w0"}
    assert job.register(1, name="w1b", connection=5)[-1].generation.counter == 2
    assert job.state.recoveries.count == 0
    assert job.state.failures_by_class == {}


def test_two_halves_never_both_go_on(shrinking) -> None:
    job = shrinking
    job.begin()
    job.wait(2.2, 0)
    job.stop(0)
    assert job.wait(20, 0) == [], "one of three is no majority"
    job.feed(events.ConfirmedGone("w1"))
    assert job.wait(1, 0) == []
    begins = job.feed(events.ConfirmedGone("w2"))
    assert [m.world_size for m in begins] == [1]


def test_a_majority_goes_on_after_a_wait_and_grows_again(shrinking) -> None:
    job = shrinking
    job.begin()
    job.step(3)
    job.wait(2.2, 0, 1)
    job.stop(0, 1)
    assert job.wait(3.5, 0, 1) == []
    begins = job.wait(1, 0, 1)
    assert [m.world_size for m in begins] == [2, 2]
    job.register(2, name="w2b", connection=8)
    for rank in (0, 1):
        job.step(4, rank)
    assert job.state.current.draining == "1 worker more can join"
    job.finish(0, 4, left=True)
    job.finish(1, 4, left=True)
    assert [m.world_size for m in job.stop(0, 1)] == [3, 3, 3]


def test_a_world_that_the_layout_does_not_allow_is_not_formed(drive) -> None:
    job = drive(num_workers=4, may_shrink=True, degrees=Degrees(data=-1, tensor=2))
    job.begin()
    job.wait(2.2, 0, 1, 2)
    job.stop(0, 1, 2)
    begins = job.wait(11, 0, 1, 2)
    assert {m.world_size for m in begins} == {2}


def test_a_used_store_is_not_handed_out_again(drive) -> None:
    from reknit.protocol.agents import Stopped

    job = drive()
    begin = job.begin()
    job.exit(1, signal=9)
    job.stop(1)
    assert job.hear(1, Stopped(generation=begin.generation, store=begin.store)) == []
    assert {m.store != begin.store for m in job.beat(0)} == {True}


def test_recoveries_are_measured_to_the_first_new_step(drive) -> None:
    job = drive()
    job.begin()
    job.step(1)
    job.step(2)
    job.exit(1, signal=9)
    job.now += 0.5
    job.stop()
    job.now += 0.25
    for replica in (0, 1):
        job.beat(replica, job.slot(replica, phase="Loading"))
    job.now += 0.125
    job.say(0, Resumed(generation=job.generation, step=1, source="step-1"))
    job.now += 1
    job.step(2)
    assert "RecoveryFinished" not in job.reasons()
    job.now += 1
    job.step(3)
    figures = job.records[-1].figures
    assert job.records[-1].reason == "RecoveryFinished"
    assert figures == pytest.approx(
        {
            "free": 0.5,
            "replace": 0,
            "join": 0.25,
            "transfer": 0.125,
            "redo": 2,
            "total": 2.875,
            "lost_steps": 1,
            "redone_steps": 1,
        }
    )
    assert job.records[-1].detail == "checkpoint"
    assert job.state.steps.redone == 1
    assert job.state.recoveries.last_seconds == pytest.approx(2.875)


def test_a_step_that_has_waited_counts_from_when_it_was_said(drive) -> None:
    job = drive()
    job.begin()
    job.exit(1, signal=9)
    job.stop()
    generation = job.generation
    for replica in (0, 1):
        job.beat(replica, job.slot(replica, phase="Loading"))
    job.say(0, Resumed(generation=generation, step=0, source="beginning"))
    job.now += 1
    for rank, waited in ((0, 0.5), (1, 0.25)):
        done = StepDone(generation=generation, step=1)
        job.hear(rank + 1, FromSlot(rank=rank, message=done, waited=waited))
    first, recovered = job.records[-2:]
    assert (first.kind, first.time) == ("step", job.now - 0.25)
    assert recovered.figures["total"] == pytest.approx(0.75)
    for rank in (0, 1):
        done = StepDone(generation=generation, step=2)
        job.hear(rank + 1, FromSlot(rank=rank, message=done, waited=60.0))
    assert job.records[-1].time == first.time


def test_the_detection_of_silence_is_part_of_the_figures(drive) -> None:
    job = drive()
    job.begin()
    job.beat(1, job.slot(1, silent_seconds=2.5))
    job.stop()
    job.step(1)
    assert job.records[-1].figures["detect"] == 2.5


def test_what_a_rank_reports_becomes_a_sentence(drive) -> None:
    job = drive()
    job.begin()
    job.say(0, Resumed(generation=job.generation, step=0, source="beginning"))
    job.say(0, Checkpointed(step=10, location="/c/step-10", seconds=1.5))
    job.say(0, Checkpointed(step=20, location="/c/step-20", error="no space left on device"))
    job.say(0, Evaluated(step=20, metrics={"loss": 1.25}))
    job.say(1, CopyDiffered(step=20, ward=0))
    damaged = ("step-20: shard-0 is damaged", "step-15: the manifest is damaged")
    resumed = Resumed(generation=job.generation, step=10, source="/c/step-10", damaged=damaged)
    job.say(0, resumed)
    assert [record.message for record in job.records[-6:]] == [
        "Training starts from the beginning.",
        "The checkpoint of step 10 is durable after 1.50 s.",
        "The checkpoint of step 20 could not be written: no space left on device",
        "The evaluation at step 20 gave loss 1.25.",
        "The copy of rank 0's shard on rank 1 on w1 differed from its original at step 20, and was "
        "made anew.",
        "Training goes on from step 10; newer checkpoints cannot be used (step-20: shard-0 is "
        "damaged; step-15: the manifest is damaged).",
    ]
    assert job.state.checkpoint.step == 10
    assert job.state.checkpoint.error == "no space left on device"


def test_what_belongs_to_an_older_generation_is_ignored(drive) -> None:
    job = drive()
    job.begin()
    old = job.generation
    job.exit(1, signal=9)
    job.stop()
    assert job.hear(2, _exited(old, 1)) == []
    assert job.state.current.faults == ()


def test_a_rank_on_another_agent_is_not_believed(drive) -> None:
    job = drive()
    job.begin()
    assert job.hear(1, _exited(job.generation, 1)) == []
    assert job.state.current.faults == ()


def test_the_phase_follows_the_membership(drive) -> None:
    from reknit.coordinator.view import phase_of

    job = drive()
    phases = [phase_of(job.state)]
    job.begin()
    phases.append(phase_of(job.state))
    job.exit(1, signal=9)
    phases.append(phase_of(job.state))
    job.stop()
    job.finish(0)
    phases.append(phase_of(job.state))
    job.finish(1)
    phases.append(phase_of(job.state))
    assert phases == [
        MembershipPhase.WAITING,
        MembershipPhase.RUNNING,
        MembershipPhase.RECOVERING,
        MembershipPhase.CLOSING,
        MembershipPhase.CONCLUDED,
    ]


def test_ranks_that_leave_without_a_checkpoint_do_not_look_clean(drive) -> None:
    job = drive()
    job.begin()
    job.step(9)
    lost = "the last checkpoint (step 9) could not be written"
    for rank in (0, 1):
        finished = Finished(generation=job.generation, step=9, left=True, unsaved=lost)
        job.say(rank, finished)
    assert job.records[-1].reason == "GenerationEnded"
    assert lost in job.records[-1].message
    assert status_of(job.state).checkpoint.unsaved == lost
    job.stop()
    job.say(0, Resumed(generation=job.generation, step=4, source="step-4"))
    assert status_of(job.state).checkpoint.unsaved is None


def test_the_operator_is_asked_about_the_pods_that_are_in_the_way(shrinking) -> None:
    job = shrinking
    job.begin()
    assert status_of(job.state).missing == ()
    job.wait(2.2, 0)
    assert status_of(job.state).missing == ("w1", "w2")
    job.feed(events.ConfirmedGone("w1"))
    job.feed(events.ConfirmedGone("w1"))
    assert status_of(job.state).missing == ("w2",)


def test_a_pod_that_has_taken_the_name_of_one_that_is_gone_is_not_gone(shrinking) -> None:
    job = shrinking
    job.begin()
    job.wait(2.2, 0)
    job.stop(0)
    job.register(1)
    job.feed(events.ConfirmedGone("w1"))
    assert job.state.gone == frozenset()
