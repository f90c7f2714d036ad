"""Planned moves: how ranks leave when a pod must go or the world grows."""

from dataclasses import replace
from datetime import timedelta

import pytest

from reknit.coordinator import draining
from reknit.coordinator.events import Send
from reknit.coordinator.policy import Policy
from reknit.layout import Degrees
from reknit.protocol.agents import Begin, Drain, End, Leaving, Stopped
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import MEMORY, Resumed
from reknit.protocol.settings import JobSettings, RecoverySettings

GRACE = 16.0


@pytest.mark.parametrize(
    ("rules", "leaving", "agents", "nodes", "survives"),
    [
        ({"is_replicated": True}, 1, 2, 1, True),
        ({"is_replicated": True}, 3, 4, 4, True),
        ({"is_replicated": True}, 2, 2, 2, False),
        ({"copies": 1}, 1, 3, 2, True),
        ({"copies": 1}, 1, 3, 1, False),
        ({"copies": 1}, 2, 3, 3, False),
        ({}, 1, 3, 3, False),
        # A larger world: nobody goes.
        ({}, 0, 1, 1, True),
        ({"is_replicated": True, "is_command": True}, 1, 2, 2, False),
        ({"is_command": True}, 0, 2, 2, False),
    ],
)
def test_the_state_survives_without_those_that_go(rules, leaving, agents, nodes, survives) -> None:
    policy = Policy(num_workers=agents, min_workers=1, processes_per_worker=1, **rules)
    assert policy.survives_without(leaving, num_agents=agents, num_nodes=nodes) is survives


def test_the_rules_follow_from_the_settings() -> None:
    recovery = RecoverySettings(copies=1, hang_after_seconds=7.0, phase_limit_seconds=70.0)
    rules = Policy.of(JobSettings(name="gpt", sharding="ZeRO2", recovery=recovery))
    assert (rules.is_replicated, rules.copies) == (False, 1)
    assert (rules.hang_after, rules.phase_limit) == (timedelta(seconds=7), timedelta(seconds=70))
    assert Policy.of(JobSettings(name="gpt")).is_replicated
    # Pods hold different stages, and with copies others hold them, too.
    staged = Policy.of(JobSettings(name="gpt", degrees=Degrees(pipeline=2), recovery=recovery))
    assert (staged.is_replicated, staged.copies) == (False, 1)


@pytest.fixture
def job(drive):
    """Three workers with replicated state that have made four steps."""
    job = drive(num_workers=3, is_replicated=True)
    job.begin()
    job.step(4)
    return job


def leave(job, *replicas):
    sent = []
    for replica in replicas:
        sent += job.hear(replica + 1, Leaving(grace_seconds=GRACE))
    return sent


def drains(sent):
    return [(message.stay, message.leaving) for message in sent if isinstance(message, Drain)]


def move(job, *replicas):
    sent = []
    for replica in replicas:
        stopped = Stopped(generation=job.state.last_generation, store=job.endpoint(), moved=True)
        sent += job.hear(replica + 1, stopped)
    return sent


def test_the_others_keep_their_state_and_the_replacement_joins_them(job) -> None:
    assert leave(job, 1) == []
    assert drains(job.wait(1.2, 0, 1, 2)) == [(True, ("w1",))] * 3
    assert move(job, 0, 1) == []
    job.disconnect(1)
    assert job.wait(0.2, 0, 2) == []
    assert "w1" not in job.state.agents
    assert job.state.current is not None, "worker 2 has not come to the boundary"
    assert move(job, 2) == []
    assert job.state.current is None
    begins = job.register(1, name="w1b", connection=7)
    assert [message.generation.counter for message in begins if isinstance(message, Begin)] == [
        2
    ] * 3
    job.say(0, Resumed(generation=job.generation, step=4, source=MEMORY))
    assert (job.state.recoveries.count, job.state.steps.redone) == (0, 0)
    assert job.state.failures_by_class == {}
    [note] = [r for r in job.records if getattr(r, "reason", "") == "GenerationEnded"]
    assert note.message == "The ranks have left at step 4 with their state: w1 must leave."


def test_pods_that_are_told_a_little_later_are_taken_in(job) -> None:
    leave(job, 1)
    assert job.wait(0.5, 0, 1, 2) == []
    assert leave(job, 0) == []
    assert drains(job.wait(0.7, 0, 1, 2)) == [(True, ("w0", "w1"))] * 3


def test_when_all_must_go_a_checkpoint_is_written_at_once(job) -> None:
    leave(job, 0, 1)
    assert drains(leave(job, 2)) == [(False, ("w0", "w1", "w2"))] * 3


def test_the_decision_turns_when_the_last_one_must_go_too(job) -> None:
    leave(job, 0)
    job.wait(1.2, 0, 1, 2)
    assert drains(leave(job, 1)) == [(True, ("w0", "w1"))] * 3
    assert drains(leave(job, 2)) == [(False, ("w0", "w1", "w2"))] * 3


def test_a_checkpoint_is_written_when_the_state_needs_those_that_go(drive) -> None:
    job = drive(num_workers=4, copies=1)
    job.begin()
    leave(job, 0)
    assert drains(leave(job, 1)) == [(False, ("w0", "w1"))] * 4
    assert drains(leave(job, 2)) == [(False, ("w0", "w1", "w2"))] * 4
    assert job.wait(GRACE, 0, 1, 2, 3) == []


def test_a_checkpoint_never_turns_into_a_move(job) -> None:
    running = replace(job.state.current, draining="w0 and w1 must leave")
    _, actions = draining.start(job.state, running, ("w0",), "w0 must leave", job.now)
    sent = [action.message for action in actions if isinstance(action, Send)]
    assert drains(sent) == [(False, ("w0",))] * 3


def test_a_fault_meanwhile_is_one_like_any_other(job) -> None:
    leave(job, 1)
    job.wait(1.2, 0, 1, 2)
    move(job, 0)
    ends = [message for message in job.exit(2, signal=9) if isinstance(message, End)]
    assert [message.keep for message in ends] == [True, True], "worker 0 has left already"
    assert job.state.failures_by_class == {ExitClass.KILLED: 1}
    assert job.state.recoveries.count == 1


def test_a_pod_that_cannot_wait_for_the_boundary_ends_the_generation(job) -> None:
    leave(job, 1)
    job.wait(1.2, 0, 1, 2)
    assert job.wait(GRACE / 2 - 1.5, 0, 1, 2) == []
    ends = job.wait(0.6, 0, 1, 2)
    assert {(type(message), message.keep, message.failed) for message in ends} == {(End, True, ())}
    assert job.records[-1].message == "W1 cannot wait for the end of the step."
    assert job.state.failures_by_class == {}


def test_an_agent_that_was_away_when_its_ranks_left_is_not_at_fault(job) -> None:
    leave(job, 1)
    job.wait(1.2, 0, 1, 2)
    job.beat(0, job.slot(0))
    generation = job.generation
    job.disconnect(0)
    job.register(0, connection=8)
    assert job.state.current is not None
    stopped = Stopped(generation=generation, store=job.endpoint(), moved=True)
    job.hear(8, stopped)
    move(job, 1, 2)
    assert job.state.current is None
    assert job.state.failures_by_class == {}


def test_an_agent_that_missed_the_drain_is_told_when_it_comes_back(job) -> None:
    job.disconnect(2)
    leave(job, 1)
    job.wait(1.2, 0, 1)
    sent = job.register(2, connection=9, generation=job.generation, slots=(job.slot(2),))
    assert drains(sent) == [(True, ("w1",))]


def test_an_agent_that_missed_the_beginning_is_told_of_both(drive) -> None:
    job = drive(num_workers=2, is_replicated=True)
    job.register(0)
    job.register(1)
    job.disconnect(1)
    leave(job, 0)
    job.wait(1.2, 0)
    sent = job.register(1, connection=9)
    assert [type(message) for message in sent][1:] == [Begin, Drain]


def test_a_pod_that_has_left_and_falls_silent_is_no_fault(job) -> None:
    leave(job, 1)
    job.wait(1.2, 0, 1, 2)
    move(job, 1)
    assert job.wait(2.5, 0, 2) == []
    assert set(job.state.agents) == {"w0", "w2"}
    assert job.state.current.faults == ()


def test_a_later_coordinator_takes_a_move_as_what_it_is(drive) -> None:
    """It does not know that its predecessor has drained the generation."""
    job = drive(incarnation=2)
    old = job.state.last_generation.model_copy(update={"incarnation": 1, "counter": 3})
    for rank in (0, 1):
        job.register(rank, generation=old, promised=1, slots=(job.slot(rank, old, step=7),))
    for rank in (0, 1):
        sent = job.hear(rank + 1, Stopped(generation=old, store=job.endpoint(), moved=True))
    assert {type(message) for message in sent} == {Begin}
    assert job.state.recoveries.count == 0


def test_a_larger_world_begins_without_a_checkpoint(shrinking) -> None:
    job = shrinking
    job.begin()
    job.step(3)
    job.wait(2.2, 0, 1)
    job.stop(0, 1)
    job.wait(4.5, 0, 1)
    job.register(2, name="w2b", connection=8)
    start = len(job.sent)
    for rank in (0, 1):
        job.step(4, rank)
    assert drains(message for _, message in job.sent[start:]) == [(True, ())] * 2
    assert [message.world_size for message in move(job, 0, 1)] == [3, 3, 3]
    assert job.state.recoveries.count == 1, "that of the loss"
