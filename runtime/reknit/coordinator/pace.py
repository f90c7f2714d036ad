"""How long the job's steps take, and since when nothing has moved: pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

REMEMBERED_STEPS: Final = 20
PATIENCE: Final = 10
"""Durations of the longest remembered step that are waited for the next sign of progress."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of the current generation."""

    moved: float = 0.0
    """When a rank was last seen to come further."""
    durations: tuple[float, ...] = ()
    """Seconds of the latest steps, of earlier generations, too."""
    last: float | None = None
    """When the generation's latest step was complete; None before its first one."""
    is_undisturbed: bool = False
    """Nothing but steps was made since then."""


def begun(pace: Pace, now: float) -> Pace:
    """A generation begins; its first step takes as long as it takes."""
    return replace(pace, moved=now, last=None)


def moved(pace: Pace, now: float, *, in_step: bool) -> Pace:
    """A rank has come further, in a step or in something else."""
    return replace(pace, moved=now, is_undisturbed=pace.is_undisturbed and in_step)


def stepped(pace: Pace, seconds: float | None, now: float) -> Pace:
    """All ranks have made one more step, which took so long by their own measurement.

    What the user's program does between two steps belongs to the duration.
    """
    gap = now - pace.last if pace.last is not None and pace.is_undisturbed else None
    known = [value for value in (seconds, gap) if value is not None]
    durations = (*pace.durations, max(known)) if known else pace.durations
    return replace(
        pace, durations=durations[-REMEMBERED_STEPS:], moved=now, last=now, is_undisturbed=True
    )


def excused(pace: Pace, seconds: float, now: float) -> Pace:
    """So long nobody listened, and whatever moved meanwhile went unseen."""
    return replace(pace, moved=min(now, pace.moved + seconds))


def limit(durations: Sequence[float], floor: timedelta) -> float:
    """Seconds without progress in a step after which a rank has hung."""
    return max(floor.total_seconds(), PATIENCE * max(durations))


def limit_of(pace: Pace, *, in_step: bool, floor: timedelta, otherwise: timedelta) -> float:
    """The limit for what is being done now; `otherwise` is that of all but well-known steps."""
    if not in_step or pace.last is None or not pace.durations:
        return otherwise.total_seconds()
    return limit(pace.durations, floor)
