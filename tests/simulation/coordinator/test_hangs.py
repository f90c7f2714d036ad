"""Ranks that hang, in jobs whose steps vary by a factor of five."""

from hypothesis import given, settings
from hypothesis import strategies as st

from reknit.protocol.outcome import ExitClass
from reknit.protocol.status import EventRecord, StepRecord

seeds = st.integers(0, 2**32)
moments = st.floats(1.5, 4.0)


def hangs(job):
    return [r for r in job.records if isinstance(r, EventRecord) and r.reason == "Hung"]


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(0.001, 0.1), st.sampled_from([(3, 1), (2, 2), (1, 1), (1, 3)]))
def test_steps_that_vary_are_no_hangs(world, seed, max_delay, size) -> None:
    job = world(
        seed,
        max_delay=max_delay,
        num_workers=size[0],
        processes_per_worker=size[1],
        hang_after=0.01,
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert hangs(job) == []
    assert job.generations == [(1, 1)]


@settings(max_examples=20, deadline=None)
@given(
    seeds,
    st.lists(st.tuples(moments, st.integers(0, 9)), min_size=1, max_size=2),
    st.sampled_from([(3, 1), (2, 2), (1, 3)]),
)
def test_ranks_that_hang_are_found_and_nobody_else(world, fault, seed, schedule, size) -> None:
    job = world(
        seed,
        faults=tuple(fault(at, "hang rank", target) for at, target in schedule),
        num_workers=size[0],
        processes_per_worker=size[1],
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.num_sacrificed == 0, "whoever was well lived on"
    assert job.coordinators[-1].state.steps.redone == 0
    told = [record.step for record in job.records if isinstance(record, StepRecord)]
    assert told == list(range(1, 13))


@settings(max_examples=12, deadline=None)
@given(seeds, moments, st.integers(0, 2))
def test_a_rank_that_hangs_in_a_step_is_found_soon(world, fault, seed, at, target) -> None:
    job = world(seed, faults=(fault(at, "hang rank", target),))
    job.run()
    assert all(hang.rank is not None for hang in hangs(job))
    finished = [r for r in job.records if getattr(r, "reason", "") == "RecoveryFinished"]
    # The first step may take longer, as may what is no step.
    unhurried = ("in phase", "in step 1:")
    if not any(words in hang.message for words in unhurried for hang in hangs(job)):
        assert all(record.figures["detect"] < 4.0 for record in finished)


@settings(max_examples=12, deadline=None)
@given(seeds, st.floats(2.0, 4.0))
def test_a_lost_message_costs_nobody_anything_but_time(world, fault, seed, at) -> None:
    job = world(seed, faults=(fault(at, "lose message"),))
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.num_sacrificed == 0
    assert all(hang.rank is None for hang in hangs(job))
    assert job.coordinators[-1].state.failures == 0
    assert job.coordinators[-1].state.steps.redone == 0
