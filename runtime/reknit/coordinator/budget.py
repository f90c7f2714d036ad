"""How often processes may fail and be replaced in place before the job is given up: pure.

Two limits: failures in a row without a new step, and failures within a window that slides over
them. They are counted apart from those of pods, which the operator has a budget for.
"""

from collections.abc import Sequence

from reknit.coordinator.policy import Policy
from reknit.coordinator.records import count


def charged(times: Sequence[float], policy: Policy, now: float) -> tuple[float, ...]:
    """The failures on record after one more, as far as the window reaches back."""
    since = now - policy.process_failure_window.total_seconds()
    return (*(time for time in times if time > since), now)[-(policy.process_failures + 1) :]


def exhausted(num_in_a_row: int, times: Sequence[float], policy: Policy) -> str | None:
    """Why the job is given up, as a clause; None while it is not.

    Args:
        num_in_a_row: failures since a new step was committed.
        times: what `charged` gave.
        policy: the limits.
    """
    limit = policy.max_process_failures
    if num_in_a_row > limit:
        tries = count(limit, "recovery", "recoveries")
        return f"given up after {tries} without a new step"
    limit = policy.process_failures
    if len(times) > limit:
        tries = count(limit, "recovery", "recoveries")
        return f"given up after {tries} within {policy.process_failure_window}"
    return None
