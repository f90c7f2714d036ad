import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.coordinator import progress
from reknit.coordinator.progress import Steps
from reknit.protocol.base import Generation
from reknit.protocol.ranks import StepDone

GENERATION = Generation(incarnation=1, counter=1)


def begun(*versions: int) -> Steps:
    return progress.begin(Steps(), versions)


def done(step: int, **more) -> StepDone:
    return StepDone(generation=GENERATION, step=step, **more)


def report(steps, rank, message, now=101.0):
    return progress.report(steps, GENERATION, rank, message, now)


def test_a_record_is_written_when_all_ranks_hold_the_version() -> None:
    steps, records = report(begun(0, 0), 1, done(1, metrics={"loss": 3.0}, memory_bytes=10))
    assert records == ()
    steps, records = report(
        steps, 0, done(1, metrics={"loss": 1.0, "x": 5.0}, memory_bytes=20, samples=8)
    )
    [record] = records
    assert record.metrics == {"loss": 2.0, "x": 5.0}
    assert record.memory_bytes == {0: 20, 1: 10}
    assert (record.step, record.samples, record.time) == (1, 8, 101.0)
    assert steps.committed == 1


def test_a_version_said_twice_counts_once() -> None:
    steps, records = report(begun(0), 0, done(1))
    assert len(records) == 1
    assert report(steps, 0, done(1)) == (steps, ())


def test_a_later_version_stands_for_a_lost_message() -> None:
    steps, _ = report(begun(0, 0), 0, done(1))
    steps, _ = report(steps, 0, done(2))
    steps, records = report(steps, 1, done(2))
    assert [(r.step, len(r.memory_bytes)) for r in records] == [(1, 1), (2, 2)]
    assert steps.reports == {}


def test_steps_are_counted_as_redone_when_training_resumes_before_them() -> None:
    steps, _ = report(begun(0), 0, done(7))
    again = progress.begin(steps, [0])
    resumed, redone, records = progress.resume(again, 4, 110.0)
    assert (redone, resumed.redone, resumed.committed, records) == (3, 3, 7, ())
    resumed, records = report(resumed, 0, done(5))
    assert [record.step for record in records] == [5]
    assert resumed.committed == 7


def test_a_resumed_run_does_not_start_from_nothing() -> None:
    steps, redone, records = progress.resume(begun(0, 0), 40, 101.0)
    assert (steps.committed, redone, records) == (40, 0, ())


def test_a_step_that_only_survivors_completed_is_recorded_when_training_goes_on_from_it() -> None:
    steps, _ = report(begun(0, 0, 0), 0, done(1))
    steps, records = report(steps, 1, done(1, metrics={"loss": 1.0}, seconds={"total": 2.0}))
    assert records == ()
    steps = progress.begin(steps, [0, 0, 0])
    steps = progress.remember(steps, 0, done(2))
    steps, redone, records = progress.resume(steps, 1, 105.0)
    [record] = records
    assert (record.step, record.generation, record.metrics) == (1, GENERATION, {"loss": 1.0})
    assert (redone, steps.committed, steps.emitted, steps.productive) == (0, 1, 1, 2.0)
    assert progress.resume(steps, 2, 106.0)[2] == (), "told too late"


def test_a_step_that_survivors_had_to_give_up_is_not_recorded() -> None:
    steps, _ = report(begun(0, 0), 0, done(1))
    steps, redone, records = progress.resume(progress.begin(steps, [0, 0]), 0, 105.0)
    assert (redone, records, steps.committed) == (0, (), 0)


@given(st.floats(allow_nan=False), st.integers(1, 9))
def test_ranks_that_agree_are_not_rounded(value: float, num_ranks: int) -> None:
    assert progress.mean([value] * num_ranks) == value


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_the_mean_lies_between_the_extremes(values: list[float]) -> None:
    assert min(values) - 1e-6 <= progress.mean(values) <= max(values) + 1e-6


def test_figures_that_are_not_finite_stay_so() -> None:
    assert math.isnan(progress.mean([math.nan, 1.0]))
    assert progress.mean([math.inf, 1.0]) == math.inf


def test_speed_and_remaining_time_follow_the_latest_steps() -> None:
    steps = begun(0)
    for step in range(1, 41):
        seconds = 5.0 if step < 20 else 0.5
        steps, _ = report(steps, 0, done(step, samples=16, total_steps=60), 100.0 + step * seconds)
    far = progress.progress(steps)
    assert far.samples_per_second == pytest.approx(32.0)
    assert far.remaining_seconds == pytest.approx(10.0)
    assert (far.step, far.total_steps) == (40, 60)


def test_without_steps_there_is_no_speed() -> None:
    assert progress.progress(Steps()).samples_per_second is None
    assert progress.effective_ratio(Steps(), 5.0) is None


def test_time_on_redone_steps_is_not_effective() -> None:
    steps = begun(0)
    for step in (1, 2):
        steps, _ = report(steps, 0, done(step, seconds={"total": 2.0}))
    steps, _, _ = progress.resume(progress.begin(steps, [0]), 0, 106.0)
    for step in (1, 2, 3):
        steps, _ = report(steps, 0, done(step, seconds={"total": 2.0}))
    # The first step began at 99.
    assert progress.effective_ratio(steps, 120.0) == pytest.approx(6 / 21)


def test_a_version_that_nobody_could_tell_of_is_recorded_without_figures() -> None:
    steps, _ = report(begun(0), 0, done(1))
    steps, records = report(steps, 0, done(4, metrics={"loss": 1.0}))
    assert [(record.step, record.metrics) for record in records] == [
        (2, {}),
        (3, {}),
        (4, {"loss": 1.0}),
    ]
    assert steps.committed == 4


def test_recalled_steps_are_recorded_as_far_as_they_are_remembered() -> None:
    told = [(0, done(6, metrics={"loss": 1.0})), (0, done(7)), (1, done(6, metrics={"loss": 3.0}))]
    steps, records = progress.recall(Steps(), GENERATION, 4, [7, 6], told, 100.0)
    assert [(record.step, record.metrics) for record in records] == [(5, {}), (6, {"loss": 2.0})]
    assert (steps.committed, steps.emitted, progress.speed(steps)) == (6, 6, None)
    steps, records = report(steps, 1, done(7))
    assert [(record.step, len(record.memory_bytes)) for record in records] == [(7, 2)]


def test_a_new_generation_is_not_behind_the_one_before() -> None:
    steps = begun(0, 0)
    for rank in (0, 1):
        steps, _ = report(steps, rank, done(1, metrics={"loss": 1.0}))
    steps = progress.begin(steps, [0, 0])
    assert progress.progress(steps).step == 1
    steps, _, _ = progress.resume(steps, 1, 102.0)
    assert progress.progress(steps).step == 1
