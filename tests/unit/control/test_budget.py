"""The windowed budget of failures, and the waits between replacements."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit_operator.api.types import Budget
from reknit_operator.constants import INCIDENT
from reknit_operator.policy.budget import back_off, charge, exhausted, replace_at

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(number):
    return START + timedelta(seconds=number)


def test_failures_in_the_window_count():
    budget = Budget(failures=2, per=timedelta(seconds=100))
    times = ()
    for second, expected in ((0, False), (30, False), (60, True)):
        times = charge(times, budget, at(second))
        assert exhausted(times, budget, at(second)) is expected
    assert exhausted(times, budget, at(99)) is True
    assert exhausted(times, budget, at(100)) is False


def test_budget_of_none():
    budget = Budget(failures=0)
    assert exhausted((), budget, at(0)) is False
    assert exhausted(charge((), budget, at(0)), budget, at(0)) is True


def test_pods_lost_together_are_one_failure():
    budget = Budget(failures=3)
    times = ()
    for _ in range(64):
        times = charge(times, budget, at(0))
    assert times == (at(0),)
    assert charge(times, budget, at(4)) == (at(0),)
    assert charge(times, budget, at(5)) == (at(0), at(5))


def test_a_fast_crash_loop_does_not_hide_in_one_incident():
    budget = Budget(failures=3)
    times, second = (), 0
    while not exhausted(times, budget, at(second)):
        second += 1
        assert second < 60
        times = charge(times, budget, at(second))
    assert second == 1 + 3 * INCIDENT.total_seconds()


@given(
    st.lists(st.integers(0, 10_000), max_size=60).map(sorted),
    st.integers(0, 5),
    st.integers(1, 5000),
)
def test_dropping_old_entries_never_changes_the_verdict(seconds, failures, per):
    budget = Budget(failures=failures, per=timedelta(seconds=per))
    generous = Budget(failures=1000, per=timedelta(days=7))
    kept, every = (), ()
    for second in seconds:
        kept, every = charge(kept, budget, at(second)), charge(every, generous, at(second))
        assert exhausted(kept, budget, at(second)) == exhausted(every, budget, at(second))
        assert len(kept) <= failures + 1


@pytest.mark.parametrize(
    ("recent", "wait"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (8, 60), (5000, 60)]
)
def test_back_off_doubles_up_to_a_minute(recent, wait):
    assert back_off(recent) == timedelta(seconds=wait)


def test_first_failure_is_repaired_at_once(make_worker):
    old = make_worker(created=at(0))
    assert replace_at([at(50)], [old], at(50)) is None


def test_later_failures_wait(make_worker):
    old = make_worker(created=at(0))
    times = [at(10), at(20), at(30)]
    assert replace_at(times, [old], at(30)) == at(32)
    assert replace_at(times, [old], at(32)) is None


def test_old_failures_do_not_slow_down():
    assert replace_at([at(0), at(10), at(700)], (), at(700)) is None


def test_a_place_is_refilled_once_per_period(make_worker):
    old = make_worker(created=at(10))
    assert replace_at((), [old], at(10)) == at(11)
    assert replace_at((), [old], at(11)) is None
