"""Faults after which processes live on, and what that costs."""

import pytest

from reknit.protocol.agents import Begin, End, FromSlot, Welcome
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import MEMORY, Left, Parked, PeerLost, Resumed, StepDone
from reknit.protocol.status import EventRecord, StepRecord

OLD = Generation(incarnation=1, counter=3)


def ends(job, start=0):
    """What agents were told, by their number, since then."""
    return {
        connection - 1: (message.keep, message.failed)
        for connection, message in job.sent[start:]
        if isinstance(message, End)
    }


def resume(job, step, source=MEMORY, **seconds):
    said = Resumed(generation=job.generation, step=step, source=source, seconds=seconds)
    return job.say(0, said)


def test_a_rank_at_fault_is_named_to_its_own_agent(drive) -> None:
    job = drive(num_workers=3)
    job.begin()
    job.beat(1, job.slot(1, silent_seconds=2.5))
    assert ends(job) == {0: (True, ()), 1: (True, (1,)), 2: (True, ())}


def test_the_rank_that_raised_is_named_and_the_others_live_on(drive) -> None:
    job = drive()
    job.begin()
    job.fail(1, "ValueError: x")
    job.wait(1.1, 0, 1)
    assert ends(job) == {0: (True, ()), 1: (True, (1,))}


def test_a_lost_agent_ends_the_generation_and_blames_no_rank(drive) -> None:
    job = drive()
    job.begin()
    job.wait(2.2, 0)
    assert ends(job) == {0: (True, ())}


def test_a_lost_connection_between_ranks_ends_the_generation_when_nothing_explains_it(
    drive,
) -> None:
    job = drive()
    job.begin()
    job.say(1, PeerLost(generation=job.generation))
    assert job.wait(0.8, 0, 1) == []
    job.say(0, PeerLost(generation=job.generation))
    assert {type(m) for m in job.wait(0.3, 0, 1)} == {End}
    assert ends(job) == {0: (True, ()), 1: (True, ())}
    assert job.state.failures == 0, "no process is to blame"
    assert job.state.failures_by_class == {ExitClass.INFRASTRUCTURE: 1}
    [note] = [record for record in job.records if record.reason == "ConnectionLost"]
    assert note.message == "Rank 1 on w1 lost its connection to another rank."


def test_the_fault_behind_a_lost_connection_is_the_one_that_counts(drive) -> None:
    job = drive()
    job.begin()
    job.say(0, PeerLost(generation=job.generation))
    job.exit(1, signal=9)
    assert job.state.failures_by_class == {ExitClass.KILLED: 1}
    job.stop()
    assert job.wait(2.0, 0, 1) == [], "it belonged to the generation before"


def test_a_later_coordinator_hears_of_a_lost_connection(drive) -> None:
    job = drive(incarnation=2)
    slots = [job.slot(rank, OLD, peer_lost=rank == 1) for rank in (0, 1)]
    for rank in (0, 1):
        job.register(rank, generation=OLD, promised=1, slots=(slots[rank],))
    sent = []
    for _ in range(11):
        for rank in (0, 1):
            sent += job.beat(rank, slots[rank])
        sent += job.wait(0.1)
    assert [type(message) for message in sent] == [End, End]


def test_words_between_agent_and_rank_mean_nothing_here(drive) -> None:
    job = drive()
    job.begin()
    before = job.state
    assert job.say(1, Parked()) == []
    assert job.say(1, Left(generation=job.generation, step=3)) == []
    assert job.state == before


def test_nothing_is_lost_or_redone_when_training_goes_on_in_memory(drive) -> None:
    job = drive()
    job.begin()
    job.step(1)
    job.step(2)
    job.exit(1, signal=9)
    job.now += 0.1
    job.stop()
    job.now += 0.5
    resume(job, 2, join=0.1, agree=0.05, transfer=0.2)
    assert job.records[-1].message == "Training goes on from step 2 in memory."
    job.now += 1
    job.step(3)
    finished = job.records[-1]
    assert finished.reason == "RecoveryFinished"
    assert finished.figures == pytest.approx(
        {
            "free": 0.1,
            "replace": 0.0,
            # New processes start meanwhile.
            "join": 0.25,
            "agree": 0.05,
            "transfer": 0.2,
            "redo": 1.0,
            "total": 1.6,
            "lost_steps": 0,
            "redone_steps": 0,
        }
    )
    assert finished.detail == "memory"
    assert job.state.steps.redone == 0


def test_phases_of_an_attempt_that_failed_are_kept(drive) -> None:
    job = drive()
    job.begin()
    job.step(1)
    for seconds in (0.5, 0.25):
        job.exit(1, signal=9)
        job.stop()
        job.now += seconds
    resume(job, 1, agree=10.0, transfer=1.0)
    job.step(2)
    figures = job.records[-1].figures
    assert figures["join"] == pytest.approx(0.5)
    assert figures["agree"] == pytest.approx(0.25), "no more than there was"
    assert figures["transfer"] == 0.0
    assert figures["total"] == pytest.approx(0.75)


def test_a_step_that_survivors_completed_after_the_end_has_its_record(drive) -> None:
    job = drive()
    job.begin()
    old = job.generation
    job.step(1)
    job.exit(1, signal=9)
    done = StepDone(generation=old, step=2, metrics={"loss": 0.5})
    job.hear(1, FromSlot(rank=0, message=done))
    job.stop()
    resume(job, 2)
    record, note = job.records[-2:]
    assert isinstance(record, StepRecord)
    assert (record.step, record.generation, record.metrics) == (2, old, {"loss": 0.5})
    assert isinstance(note, EventRecord)
    assert job.state.steps.committed == 2
    job.step(3)
    assert job.records[-1].reason == "RecoveryFinished"


def test_a_kill_in_every_step_is_progress_all_the_same(drive) -> None:
    """Survivors complete the step each time, and nobody else says so."""
    job = drive(max_process_failures=2)
    job.begin()
    for step in range(1, 6):
        old = job.generation
        job.exit(1, signal=9)
        job.hear(1, FromSlot(rank=0, message=StepDone(generation=old, step=step)))
        job.stop()
        resume(job, step)
    assert job.state.conclusion is None
    assert job.state.failures == 0


def test_survivors_without_a_generation_just_take_part_in_the_next_one(drive) -> None:
    job = drive(incarnation=2)
    waiting = {"generation": None, "rank": None}
    for rank in (0, 1):
        slot = job.slot(rank, OLD, step=7).model_copy(update=waiting)
        sent = job.register(rank, promised=1, slots=(slot,))
    assert [type(message) for message in sent] == [Welcome, Begin, Begin]
    resume(job, 7)
    assert job.state.steps.committed == 7
    assert job.state.steps.redone == 0


def test_a_generation_that_some_are_leaving_is_given_up_by_a_later_coordinator(drive) -> None:
    job = drive(incarnation=2)
    job.register(0, generation=OLD, promised=1, slots=(job.slot(0, OLD),))
    leaving = job.slot(1, OLD).model_copy(update={"generation": None, "rank": None})
    job.register(1, generation=OLD, promised=1, slots=(leaving,))
    assert ends(job) == {0: (True, ()), 1: (True, ())}
    assert [type(message) for message in job.stop()] == [Begin, Begin]


def test_what_a_smaller_world_leaves_behind_is_ended(shrinking) -> None:
    job = shrinking
    job.begin()
    job.wait(2.2, 0, 1)
    job.stop(0, 1)
    job.wait(4.1, 0, 1)
    assert job.state.current is not None
    assert len(job.state.current.members) == 2
    start = len(job.sent)
    waiting = job.slot(2, OLD).model_copy(update={"generation": None, "rank": None})
    job.register(2, connection=9, slots=(waiting,))
    assert ends(job, start) == {8: (False, ())}


def test_the_survivors_of_an_agent_that_is_not_chosen_are_ended(drive) -> None:
    from datetime import timedelta

    from reknit.layout import Degrees

    job = drive(
        num_workers=4,
        may_shrink=True,
        degrees=Degrees(data=-1, tensor=2),
        replacement_wait=timedelta(seconds=4),
    )
    job.begin()
    for rank in range(4):
        job.beat(rank, job.slot(rank))
    slots = {rank: (job.slot(rank),) for rank in range(3)}
    for _ in range(22):
        job.now += 0.1
        for rank in range(3):
            job.beat(rank, *slots[rank])
        job.feed_tick()
    job.stop(0, 1, 2)
    start = len(job.sent)
    for _ in range(42):
        job.now += 0.1
        for rank in range(3):
            job.beat(rank, *slots[rank])
        job.feed_tick()
    assert [p.agent for p in job.sent[-2][1].places] == ["w0", "w1"]
    assert ends(job, start) == {2: (False, ())}
