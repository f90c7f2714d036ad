"""Spares take the places of lost workers: no hang, no lost step, no rank twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from reknit.protocol.outcome import ExitClass
from reknit.protocol.status import StepRecord

LOSSES = ("kill agent", "kill agent", "kill rank", "freeze rank", "terminate agent")
CONNECTIONS = ("drop connection", "cut off")
COORDINATOR_FAULTS = ("crash coordinator", "second coordinator")

seeds = st.integers(0, 2**32)
sizes = st.sampled_from([(3, 1), (2, 1), (2, 2)])
num_spares = st.integers(1, 2)


def schedules(kinds, moments, max_size=6):
    return st.lists(
        st.tuples(moments, st.sampled_from(kinds), st.integers(0, 9)), max_size=max_size
    )


def told(job):
    return [record.step for record in job.records if isinstance(record, StepRecord)]


def events(job, reason):
    return [record for record in job.records if getattr(record, "reason", "") == reason]


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    schedules(LOSSES + CONNECTIONS + COORDINATOR_FAULTS, st.floats(0.1, 10.0)),
    st.floats(0.001, 0.3),
    sizes,
    num_spares,
)
def test_a_job_with_spares_survives_any_schedule(
    world, fault, seed, schedule, max_delay, size, spares
) -> None:
    job = world(
        seed,
        faults=tuple(fault(*item) for item in schedule),
        max_delay=max_delay,
        num_workers=size[0],
        processes_per_worker=size[1],
        num_spares=spares,
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.generations == sorted(set(job.generations))


@settings(max_examples=25, deadline=None)
@given(
    seeds,
    schedules(LOSSES + CONNECTIONS + COORDINATOR_FAULTS, st.floats(0.1, 10.0)),
    st.sampled_from([1.0, 8.0]),
)
def test_a_job_with_spares_that_may_shrink_finishes_too(
    world, fault, seed, schedule, replacement_seconds
) -> None:
    job = world(
        seed,
        faults=tuple(fault(*item) for item in schedule),
        num_spares=1,
        may_shrink=True,
        replacement_seconds=replacement_seconds,
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    schedules(("kill agent", "kill rank", *COORDINATOR_FAULTS), st.floats(0.5, 6.0)),
    sizes,
    num_spares,
)
def test_no_step_is_lost_while_a_rank_that_holds_it_is_well(
    world, fault, seed, schedule, size, spares
) -> None:
    job = world(
        seed,
        faults=tuple(fault(*item) for item in schedule),
        num_workers=size[0],
        processes_per_worker=size[1],
        num_spares=spares,
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert all(version == newest for version, newest in job.resumptions), job.resumptions
    assert job.num_sacrificed == 0, "whoever was well lived on"


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(2.5, 4.0), st.integers(0, 2), sizes)
def test_training_goes_on_without_a_new_pod(world, fault, seed, at, target, size) -> None:
    job = world(
        seed,
        faults=(fault(at, "kill agent", target % size[0]),),
        max_delay=0.02,
        num_workers=size[0],
        processes_per_worker=size[1],
        num_spares=1,
        replacement_seconds=9.0,
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert told(job) == list(range(1, 13))
    assert all(version == newest for version, newest in job.resumptions)
    lost, resumed = events(job, "AgentLost"), events(job, "Resumed")
    if lost and resumed[0].time < lost[0].time and len(resumed) > 1:
        [promoted] = events(job, "SparePromoted")
        assert f"the place of worker {target % size[0]} instead of" in promoted.message
        assert resumed[-1].time - lost[0].time < 2.0
        assert resumed[-1].detail == "memory"


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(2.5, 4.0), st.integers(0, 2))
def test_a_pod_that_must_go_leaves_its_place_to_a_spare(world, fault, seed, at, target) -> None:
    leave = fault(at, "terminate agent", target)
    job = world(seed, faults=(leave,), max_delay=0.02, num_spares=1, replacement_seconds=9.0)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    state = job.coordinators[-1].state
    assert (state.steps.redone, state.recoveries.count) == (0, 0)
    assert state.failures_by_class == {}
    assert len(events(job, "SparePromoted")) == len(job.generations) - 1
    assert all(version == newest for version, newest in job.resumptions)


def test_a_promotion_outlives_the_coordinator(world, fault) -> None:
    """The next one finds the spare in the place of the worker, and adopts the generation."""
    faults = (fault(2.5, "kill agent", 1), fault(4.0, "crash coordinator"))
    jobs = [world(seed, faults=faults, num_spares=1, max_delay=0.02) for seed in range(6)]
    assert {job.run().exit_class for job in jobs} == {ExitClass.SUCCEEDED}
    adopted = [job for job in jobs if events(job, "GenerationAdopted")]
    assert adopted
    for job in adopted:
        assert any(agent.is_spare for agent in job.coordinators[-1].state.workers)
        assert len(events(job, "SparePromoted")) == 1
