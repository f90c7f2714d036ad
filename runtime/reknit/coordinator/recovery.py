"""What recoveries take, phase by phase, and what they cost: pure.

A recovery lasts from the detection of a fault until the ranks of a generation have committed a
step that was not committed before. Another fault meanwhile belongs to the same recovery.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from reknit.protocol.ranks import BEGINNING, MEMORY

DETECT: Final = "detect"
"""From the last sign of life to the detection; known where silence was the sign."""
FREE: Final = "free"
"""Until no process acts in the old generation any more."""
REPLACE: Final = "replace"
"""Until every place has an agent again."""
JOIN: Final = "join"
"""Until every rank of the new generation has its process group; new processes start meanwhile."""
AGREE: Final = "agree"
"""Until all ranks know what each of them holds."""
TRANSFER: Final = "transfer"
"""Until the state is there on all ranks."""
REDO: Final = "redo"
"""Until a new step is committed."""
PHASES: Final = (DETECT, FREE, REPLACE, JOIN, AGREE, TRANSFER, REDO)


class Source(StrEnum):
    """Where the state came from with which training went on."""

    MEMORY = "memory"
    CHECKPOINT = "checkpoint"
    BEGINNING = "beginning"

    @classmethod
    def of(cls, source: str) -> "Source":
        """From what rank 0 says, which names a checkpoint by its location."""
        return {MEMORY: cls.MEMORY, BEGINNING: cls.BEGINNING}.get(source, cls.CHECKPOINT)


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
    begun: float = 0.0
    """When the newest generation began."""
    before: Mapping[str, float] = field(default_factory=dict)
    """`seconds` at that moment."""
    source: Source | None = None
    """Where the state came from; None while it is not there, and for commands."""
    lost_steps: int = 0
    """Committed steps whose result nobody held any more."""
    redone_steps: int = 0
    """Committed steps that are computed again."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A recovery that is over."""

    seconds: Mapping[str, float]
    """Of the phases, and the `total`, which begins with the detection."""
    source: Source | None
    lost_steps: int
    redone_steps: int


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


def begun(recoveries: Recoveries, now: float) -> Recoveries:
    """A generation begins: its ranks join."""
    current = enter(recoveries, JOIN, now).current
    if current is None:
        return recoveries
    current = replace(current, begun=now, before=current.seconds)
    return replace(recoveries, current=current)


def resumed(
    recoveries: Recoveries,
    source: str,
    redone_steps: int,
    measured: Mapping[str, float],
    now: float,
) -> Recoveries:
    """The state is there on all ranks.

    What rank 0 has measured of agreement and transfer counts as such; the rest of the time since
    the generation began is the start of new processes, and the joining. Without measurements the
    phases stay as they were seen from here.
    """
    current = enter(recoveries, REDO, now).current
    if current is None:
        return recoveries
    if measured:
        rest = max(0.0, now - current.begun)
        seconds = dict(current.before)
        for phase in (AGREE, TRANSFER):
            spent = min(rest, max(0.0, measured.get(phase, 0.0)))
            seconds[phase] = seconds.get(phase, 0.0) + spent
            rest -= spent
        seconds[JOIN] = seconds.get(JOIN, 0.0) + rest
        current = replace(current, seconds=seconds)
    current = replace(
        current,
        source=Source.of(source),
        lost_steps=current.lost_steps + redone_steps,
        redone_steps=current.redone_steps + redone_steps,
    )
    return replace(recoveries, current=current)


def _turned(current: Recovery, phase: str, now: float) -> Recovery:
    spent = current.seconds.get(current.phase, 0.0) + now - current.since
    seconds = {**current.seconds, current.phase: spent}
    return replace(current, phase=phase, since=now, seconds=seconds)


def finish(recoveries: Recoveries, now: float) -> tuple[Recoveries, Recovered | None]:
    """The recovery under way is over; also what it took, None if there was none."""
    current = recoveries.current
    if current is None:
        return recoveries, None
    total = now - current.detected
    recovered = Recovered(
        seconds={**_turned(current, "", now).seconds, "total": total},
        source=current.source,
        lost_steps=current.lost_steps,
        redone_steps=current.redone_steps,
    )
    return replace(recoveries, current=None, last_seconds=total), recovered
