"""What recoveries take, phase by phase: pure.

A recovery lasts from the detection of a fault until the ranks of a generation have committed a
step that was not committed before. Another fault meanwhile belongs to the same recovery.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

DETECT: Final = "detect"
"""From the last sign of life to the detection; known where silence was the sign."""
FREE: Final = "free"
"""Until no process of the old generation is left."""
REPLACE: Final = "replace"
"""Until every place has an agent again."""
JOIN: Final = "join"
"""Until every rank of the new generation has its process group."""
TRANSFER: Final = "transfer"
"""Until the state is loaded."""
REDO: Final = "redo"
"""Until a new step is committed."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One recovery under way."""

    detected: float
    target: int
    """Over when a version above this one is committed."""
    phase: str
    since: float
    """When this phase began."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Finished phases; a phase that was entered twice adds up."""


@dataclass(frozen=True, slots=True)
class Recoveries:
    """All recoveries of the job."""

    count: int = 0
    last_seconds: float | None = None
    current: Recovery | None = None


def start(
    recoveries: Recoveries, committed: int, detected: float, silence: float | None, now: float
) -> Recoveries:
    """A fault ends a generation that had committed version `committed`."""
    count = recoveries.count + 1
    current = recoveries.current
    if current is None:
        seconds = {} if silence is None else {DETECT: silence}
        current = Recovery(detected, committed, FREE, since=detected, seconds=seconds)
        return replace(recoveries, count=count, current=current)
    return replace(recoveries, count=count, current=_turned(current, FREE, now))


def enter(recoveries: Recoveries, phase: str, now: float) -> Recoveries:
    """The recovery under way, if any, has come to `phase`."""
    current = recoveries.current
    if current is None or current.phase == phase:
        return recoveries
    return replace(recoveries, current=_turned(current, phase, now))


def _turned(current: Recovery, phase: str, now: float) -> Recovery:
    spent = current.seconds.get(current.phase, 0.0) + now - current.since
    seconds = {**current.seconds, current.phase: spent}
    return replace(current, phase=phase, since=now, seconds=seconds)


def finish(recoveries: Recoveries, now: float) -> tuple[Recoveries, dict[str, float]]:
    """The recovery under way is over; also the seconds of its phases and their `total`."""
    current = recoveries.current
    if current is None:
        return recoveries, {}
    total = now - current.detected
    seconds = dict(_turned(current, "", now).seconds)
    return replace(recoveries, current=None, last_seconds=total), {**seconds, "total": total}
