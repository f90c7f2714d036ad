from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.coordinator import pace
from reknit.coordinator.pace import Pace, limit, limit_of

FLOOR = timedelta(seconds=5)
OTHERWISE = timedelta(minutes=10)


@pytest.mark.parametrize(
    ("durations", "seconds"),
    [([0.1], 5.0), ([0.5, 0.2], 5.0), ([0.1, 2.0, 0.3], 20.0), ([60.0], 600.0)],
)
def test_the_limit_follows_the_longest_step(durations, seconds) -> None:
    assert limit(durations, FLOOR) == seconds


@pytest.mark.parametrize(
    ("known", "in_step", "seconds"),
    [
        (Pace(durations=(1.0,), last=5.0), True, 10.0),
        (Pace(durations=(1.0,), last=5.0), False, 600.0),
        # The first step of a generation.
        (Pace(durations=(1.0,), last=None), True, 600.0),
        # Nothing was measured yet.
        (Pace(last=5.0), True, 600.0),
    ],
)
def test_all_but_well_known_steps_may_last_long(known, in_step, seconds) -> None:
    assert limit_of(known, in_step=in_step, floor=FLOOR, otherwise=OTHERWISE) == seconds


@given(st.lists(st.floats(0.01, 60.0), min_size=2, max_size=60))
def test_steps_that_vary_by_a_factor_of_ten_are_never_too_slow(durations) -> None:
    longest = 10 * min(durations)
    known = pace.begun(Pace(), 0.0)
    now = 0.0
    for duration in durations:
        duration = min(duration, longest)
        allowed = limit_of(known, in_step=True, floor=timedelta(0), otherwise=OTHERWISE)
        assert duration < allowed * (1 + 1e-9)
        now += duration
        known = pace.stepped(known, duration, now)


def test_only_the_latest_steps_count() -> None:
    known = pace.stepped(Pace(), 9.0, 0.0)
    for step in range(20):
        known = pace.stepped(known, 1.0, 1.0 + step)
    assert known.durations == (1.0,) * 20


def test_what_the_program_does_between_steps_belongs_to_them_and_an_evaluation_does_not() -> None:
    known = pace.stepped(Pace(), 1.0, 100.0)
    known = pace.stepped(known, 1.0, 104.0)
    known = pace.moved(known, 105.0, in_step=False)
    known = pace.moved(known, 120.0, in_step=True)
    known = pace.stepped(known, 1.5, 130.0)
    assert known.durations == (1.0, 4.0, 1.5)
    assert known.moved == 130.0


def test_a_new_generation_keeps_what_is_known_of_steps() -> None:
    known = pace.begun(pace.stepped(Pace(), 1.0, 100.0), 200.0)
    assert (known.durations, known.moved, known.last) == ((1.0,), 200.0, None)


def test_time_that_nobody_watched_is_no_silence() -> None:
    known = Pace(moved=100.0)
    assert pace.excused(known, 5.0, 110.0).moved == 105.0
    assert pace.excused(known, 50.0, 110.0).moved == 110.0
