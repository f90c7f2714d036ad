"""Pods that must go, and worlds that grow: ranks move at a step boundary and keep their state."""

from hypothesis import given, settings
from hypothesis import strategies as st

from reknit.protocol.outcome import ExitClass
from reknit.protocol.status import StepRecord

seeds = st.integers(0, 2**32)
sizes = st.sampled_from([(3, 1), (2, 2)])


def told(job):
    return [record.step for record in job.records if isinstance(record, StepRecord)]


def events(job, reason):
    return [record for record in job.records if getattr(record, "reason", "") == reason]


def costs_nothing(job) -> None:
    state = job.coordinators[-1].state
    assert (state.steps.redone, state.recoveries.count) == (0, 0)
    assert state.failures_by_class == {}
    assert told(job) == list(range(1, 13))


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(2.0, 3.0), st.integers(0, 2), sizes)
def test_the_others_go_on_in_memory_when_a_pod_must_go(
    world, fault, seed, at, target, size
) -> None:
    job = world(
        seed,
        faults=(fault(at, "terminate agent", target),),
        max_delay=0.02,
        num_workers=size[0],
        processes_per_worker=size[1],
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    costs_nothing(job)
    assert all(version == newest for version, newest in job.resumptions)
    if job.num_moves:
        assert len(job.generations) == 2
        [ended] = events(job, "GenerationEnded")
        assert "have left at step" in ended.message
        assert events(job, "Resumed")[-1].detail == "memory"
        [gone] = [agent for agent in job.agents if agent.exited not in job.conclusions]
        assert (gone.exited.exit_class, gone.exited.unsaved) == (ExitClass.PREEMPTED, None)
    else:
        assert job.generations == [(1, 1)], "it had not begun, or was over"


@settings(max_examples=12, deadline=None)
@given(seeds, st.floats(2.0, 3.0), st.floats(0.0, 0.3))
def test_when_all_pods_must_go_a_checkpoint_is_written(world, fault, seed, at, spread) -> None:
    faults = tuple(fault(at + spread * n, "terminate agent", n) for n in range(3))
    job = world(seed, faults=faults, max_delay=0.02)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.coordinators[-1].state.steps.redone == 0
    assert all(version == newest for version, newest in job.resumptions)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(0, 2))
def test_a_world_that_has_shrunk_grows_again_and_loses_no_step(world, fault, seed, target) -> None:
    job = world(
        seed,
        faults=(fault(2.2, "kill agent", target),),
        max_delay=0.02,
        may_shrink=True,
        replacement_seconds=14.0,
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.coordinators[-1].state.steps.redone == 0
    assert job.coordinators[-1].state.recoveries.count <= 1
    assert told(job) == list(range(1, 13))
    assert job.num_sacrificed == 0


def test_worlds_do_grow_by_moves(world, fault) -> None:
    lost = fault(2.2, "kill agent", 1)
    jobs = [
        world(seed, faults=(lost,), may_shrink=True, replacement_seconds=8.0) for seed in range(6)
    ]
    assert {job.run().exit_class for job in jobs} == {ExitClass.SUCCEEDED}
    assert sum(job.num_moves for job in jobs) > 0
    assert {job.checkpoint for job in jobs} == {12}


FAULTS = ("kill rank", "freeze rank", "hang rank", "kill agent", "drop connection", "cut off")


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    st.floats(2.0, 3.5),
    st.lists(
        st.tuples(st.floats(0.0, 1.5), st.sampled_from(FAULTS), st.integers(0, 9)), max_size=2
    ),
    st.sampled_from([None, "crash coordinator", "second coordinator"]),
    st.floats(0.001, 0.3),
)
def test_a_fault_during_a_move_is_a_fault_like_any_other(
    world, fault, seed, at, schedule, coordinator, max_delay
) -> None:
    faults = [fault(at, "terminate agent", 0)]
    faults += [fault(at + after, kind, target) for after, kind, target in schedule]
    if coordinator:
        faults.append(fault(at + 0.4, coordinator))
    job = world(seed, faults=tuple(faults), max_delay=max_delay)
    assert job.run().exit_class is ExitClass.SUCCEEDED
