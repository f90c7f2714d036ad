from hypothesis import example, given, settings
from hypothesis import strategies as st

from reknit.protocol.outcome import ExitClass
from reknit.protocol.status import EventRecord, StepRecord

AGENT_FAULTS = (
    "kill rank",
    "freeze rank",
    "kill agent",
    "terminate agent",
    "drop connection",
    "cut off",
)
PROCESS_FAULTS = ("kill rank", "freeze rank", "kill agent", "terminate agent")
SURVIVABLE_FAULTS = (
    "kill rank",
    "kill rank",
    "freeze rank",
    "kill agent",
    "drop connection",
    "cut off",
    "crash coordinator",
    "second coordinator",
)
SIZES = st.sampled_from([(3, 1), (2, 2), (1, 3)])
COORDINATOR_FAULTS = ("crash coordinator", "second coordinator")

seeds = st.integers(0, 2**32)
moments = st.floats(0.1, 15.0)


def schedules(kinds, max_size=5, moments=moments):
    return st.lists(
        st.tuples(moments, st.sampled_from(kinds), st.integers(0, 9)), max_size=max_size
    )


# All agents die when the conclusion is on its way to them; their replacements must hear of it.
@example(0, [(5.0, "kill agent", 0), (5.0, "kill agent", 0), (4.75, "kill agent", 0)], 0.5)
@settings(max_examples=25, deadline=None)
@given(seeds, schedules(AGENT_FAULTS), st.floats(0.001, 0.5))
def test_a_job_survives_any_schedule_of_losses(world, fault, seed, schedule, max_delay) -> None:
    faults = tuple(fault(*item) for item in schedule)
    job = world(seed, faults=faults, max_delay=max_delay)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.generations == sorted(set(job.generations))


@settings(max_examples=25, deadline=None)
@given(seeds, schedules(AGENT_FAULTS + COORDINATOR_FAULTS * 2), st.floats(0.001, 0.3))
def test_a_job_survives_the_loss_of_its_coordinator(
    world, fault, seed, schedule, max_delay
) -> None:
    faults = tuple(fault(*item) for item in schedule)
    job = world(seed, faults=faults, max_delay=max_delay)
    assert job.run().exit_class is ExitClass.SUCCEEDED


@settings(max_examples=25, deadline=None)
@given(
    seeds,
    schedules(AGENT_FAULTS + COORDINATOR_FAULTS),
    st.sampled_from([1.0, 8.0]),
    st.sampled_from([(1, 1), (2, 2), (4, 1)]),
)
def test_a_job_that_may_shrink_finishes_too(
    world, fault, seed, schedule, replacement_seconds, size
) -> None:
    job = world(
        seed,
        faults=tuple(fault(*item) for item in schedule),
        num_workers=size[0],
        processes_per_worker=size[1],
        may_shrink=True,
        replacement_seconds=replacement_seconds,
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(2.5, 3.0), st.integers(0, 9))
def test_one_of_two_goes_on_when_the_other_is_gone(world, fault, seed, at, target) -> None:
    lost = fault(at, "kill agent", target)
    job = world(seed, faults=(lost,), num_workers=2, may_shrink=True, replacement_seconds=1e6)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert len(job.generations) <= 2


@settings(max_examples=25, deadline=None)
@given(seeds, schedules(PROCESS_FAULTS, max_size=4))
def test_records_tell_every_step_of_a_generation_once_and_in_order(
    world, fault, seed, schedule
) -> None:
    job = world(seed, faults=tuple(fault(*item) for item in schedule))
    job.run()
    at = None
    for record in job.records:
        if isinstance(record, StepRecord):
            assert (record.generation, record.step - 1) == at
            at = (record.generation, record.step)
        elif record.reason == "Resumed":
            at = (record.generation, record.step)
    assert at[1] == 12
    times = [record.time for record in job.records]
    assert times == sorted(times)


@settings(max_examples=25, deadline=None)
@given(seeds, schedules(AGENT_FAULTS, max_size=4))
def test_steps_that_are_redone_are_those_that_the_records_repeat(
    world, fault, seed, schedule
) -> None:
    job = world(seed, faults=tuple(fault(*item) for item in schedule))
    job.run()
    told = sum(
        record.figures["redone_steps"]
        for record in job.records
        if isinstance(record, EventRecord) and record.reason == "Resumed"
    )
    assert told == job.coordinators[-1].state.steps.redone
    finished = [r for r in job.records if getattr(r, "reason", "") == "RecoveryFinished"]
    for record in finished:
        others = ("total", "detect", "lost_steps", "redone_steps")
        phases = {k: v for k, v in record.figures.items() if k not in others}
        assert abs(sum(phases.values()) - record.figures["total"]) < 1e-6
        assert min(phases.values()) >= 0


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 11))
def test_an_exception_on_every_rank_ends_the_job_at_once(world, program, seed, step) -> None:
    job = world(seed, program=program(step, None, times=9))
    assert job.run().exit_class is ExitClass.PROGRAM_ERROR
    assert job.generations == [(1, 1)]


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 11), schedules(("drop connection", "cut off"), max_size=2))
def test_an_exception_ends_the_job_even_if_agents_were_away(
    world, fault, program, seed, step, schedule
) -> None:
    faults = tuple(fault(*item) for item in schedule)
    job = world(seed, faults=faults, program=program(step, None, times=99))
    assert job.run().exit_class is ExitClass.PROGRAM_ERROR


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 11), st.integers(0, 2))
def test_an_exception_on_one_rank_ends_the_job_when_it_comes_again(
    world, program, seed, step, rank
) -> None:
    job = world(seed, program=program(step, frozenset({rank}), times=9))
    conclusion = job.run()
    assert conclusion.exit_class is ExitClass.PROGRAM_ERROR
    assert f"on rank {rank}, again after the step was redone" in conclusion.message
    assert job.raised == 2


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 11), schedules(AGENT_FAULTS, max_size=3))
def test_an_exception_that_does_not_come_again_is_survived(
    world, fault, program, seed, step, schedule
) -> None:
    faults = tuple(fault(*item) for item in schedule)
    job = world(seed, faults=faults, program=program(step, frozenset({1}), times=1))
    assert job.run().exit_class is ExitClass.SUCCEEDED


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 11))
def test_a_wrong_configuration_ends_the_job_at_once(world, program, seed, step) -> None:
    wrong = program(step, frozenset({2}), times=1, exit_class=ExitClass.CONFIGURATION)
    job = world(seed, program=wrong)
    assert job.run().exit_class is ExitClass.CONFIGURATION
    assert len(job.generations) == 1


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(2.5, 3.5))
def test_a_coordinator_is_replaced_without_disturbing_the_ranks(world, fault, seed, at) -> None:
    job = world(seed, faults=(fault(at, "crash coordinator"),), max_delay=0.02)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.generations == [(1, 1)]
    told = [record.step for record in job.records if isinstance(record, StepRecord)]
    assert list(dict.fromkeys(told)) == list(range(1, 13))
    last = [r.step for r in job.coordinators[-1].records if isinstance(r, StepRecord)]
    assert last == list(range(1, 13))


@settings(max_examples=20, deadline=None)
@given(seeds, st.lists(st.tuples(st.floats(2.0, 3.5), st.integers(0, 2)), max_size=8))
def test_of_two_coordinators_the_newer_one_wins(world, fault, seed, drops) -> None:
    dropped = tuple(fault(at, "drop connection", target) for at, target in drops)
    job = world(seed, faults=(fault(2.0, "second coordinator"), *dropped), max_delay=0.02)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.generations == sorted(set(job.generations))


def test_a_coordinator_ends_when_an_agent_has_promised_itself_to_a_newer_one(world, fault) -> None:
    """Agents that the second one has won find the first one once more."""
    drops = [fault(at, "drop connection", target) for at in (2.1, 2.4) for target in range(3)]
    faults = (fault(2.0, "second coordinator"), *drops)
    jobs = [world(seed, faults=faults, max_delay=0.02) for seed in range(10)]
    assert {job.run().exit_class for job in jobs} == {ExitClass.SUCCEEDED}
    assert sum(job.num_outdone for job in jobs) > 0


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(2.5, 5.0), st.integers(0, 2), st.booleans())
def test_a_pod_that_is_told_to_leave_costs_no_step(
    world, fault, seed, at, target, is_replicated
) -> None:
    leave = fault(at, "terminate agent", target)
    job = world(seed, faults=(leave,), max_delay=0.02, is_replicated=is_replicated)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.coordinators[-1].state.steps.redone == 0
    assert job.coordinators[-1].state.failures_by_class == {}


@settings(max_examples=50, deadline=None)
@given(
    seeds,
    schedules(SURVIVABLE_FAULTS, max_size=6, moments=st.floats(0.5, 6.0)),
    st.floats(0.001, 0.3),
    SIZES,
)
@example(0, [(3.0, "kill rank", 0), (3.25, "freeze rank", 0)], 0.25, (2, 2))
def test_no_step_is_lost_while_a_rank_that_holds_it_is_well(
    world, fault, seed, schedule, max_delay, size
) -> None:
    faults = tuple(fault(*item) for item in schedule)
    job = world(
        seed,
        faults=faults,
        max_delay=max_delay,
        num_workers=size[0],
        processes_per_worker=size[1],
    )
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.num_sacrificed == 0, "whoever was well lived on"
    assert all(version == newest for version, newest in job.resumptions), job.resumptions


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1.0, 4.0), st.integers(0, 2), st.sampled_from(["kill rank", "freeze rank"]))
def test_the_loss_of_one_rank_costs_no_step_and_no_other_process(
    world, fault, seed, at, target, kind
) -> None:
    job = world(seed, faults=(fault(at, kind, target),), max_delay=0.02)
    assert job.run().exit_class is ExitClass.SUCCEEDED
    assert job.coordinators[-1].state.steps.redone == 0
    assert job.num_sacrificed == 0
    told = [record.step for record in job.records if isinstance(record, StepRecord)]
    assert told == list(range(1, 13))


def test_a_job_without_progress_is_given_up(world, fault, program) -> None:
    """A worker's process dies before it has joined, again and again."""
    faults = tuple(fault(at / 10, "kill rank", 0) for at in range(1, 2000))
    never = program(-1, None, times=0, exit_class=ExitClass.KILLED)
    job = world(7, faults=faults, program=never)
    conclusion = job.run()
    assert conclusion.exit_class is ExitClass.KILLED
    assert conclusion.message.startswith("given up after 10 recoveries without a new step")
    assert len(job.generations) == 11
