"""Whose the wrong numbers are: pure.

A step with wrong numbers is computed again. If that comes out well, what was wrong had no cause in
the program. If not, once more with each rank's micro-batches on its neighbour: what stays with the
rank is the rank's, what goes with the data is the data's. The idea is that of Megatron-LM's rerun
state machine; that one repetition tells nearly all silent corruptions is from arXiv 2604.00726.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median_low
from typing import Final

OUTLIER: Final = 5.0
"""A micro-batch whose gradient is so many times as long as the median one stands out."""
NUM_NAMED: Final = 8
"""Samples that are named in a sentence."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one micro-batch came to on one rank, before anything was reduced."""

    rank: int
    micro_batch: int
    """Index within the global batch."""
    loss: float
    norm: float
    """Of the gradient, in a unit that all readings of a trial share."""
    samples: tuple[int, ...] = ()

    @property
    def is_finite(self) -> bool:
        """Whether both numbers are."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


@dataclass(frozen=True, slots=True)
class Trial:
    """One computation of the step."""

    breach: str | None
    """What was wrong with the whole of it."""
    readings: tuple[Reading, ...]
    """Of all ranks; not needed when nothing was wrong."""


class Blame(StrEnum):
    """What the wrong numbers come from."""

    PASSING = "Passing"
    """Computed again, the step came out well."""
    RANK = "Rank"
    """Whatever the rank computes on."""
    DATA = "Data"
    """Whichever rank computes on it."""
    MODEL = "Model"
    """Everything gives them: the weights, the learning rate or the loss function."""
    UNKNOWN = "Unknown"
    """No single micro-batch gives them, or it was another one each time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an inquiry."""

    blame: Blame
    breach: str
    ranks: tuple[int, ...] = ()
    readings: tuple[Reading, ...] = ()
    """Of the micro-batches that are to blame."""

    @property
    def sentence(self) -> str:
        """The finding without its step, as a clause."""
        ranks = " and ".join(f"rank {rank}" for rank in self.ranks)
        match self.blame:
            case Blame.PASSING:
                where = f" computed on {ranks}" if ranks else ""
                return f"{self.breach}{where}, once; computed again, it came out well"
            case Blame.RANK:
                return f"{self.breach}, computed on {ranks} again and again, and nowhere else"
            case Blame.DATA:
                named = "; ".join(_named(reading) for reading in self.readings)
                return f"{self.breach}, from {named}, on any rank"
            case Blame.MODEL:
                return f"{self.breach}, from every micro-batch on every rank"
            case Blame.UNKNOWN:
                return f"{self.breach}, and no micro-batch or rank stands out"


def rotation(num_trials: int) -> int:
    """By how many ranks micro-batches are moved in the trial after so many."""
    return 1 if num_trials == 2 else 0


def judge(trials: Sequence[Trial], world_size: int) -> Verdict | None:
    """The verdict, None if another trial has to be made; at most three are.

    Args:
        trials: so far, in order; the first one has a breach.
        world_size: number of ranks.
    """
    first, *others = trials
    assert first.breach is not None, "there is nothing to look into"
    if not others:
        return None
    again, *moved = others
    if again.breach is None:
        return Verdict(Blame.PASSING, first.breach, ranks=_ranks(conspicuous(first.readings)))
    found = conspicuous(again.readings)
    if world_size == 1:
        if len(found) == len(again.readings) > 1:
            return Verdict(Blame.MODEL, again.breach)
        return Verdict(Blame.DATA if found else Blame.UNKNOWN, again.breach, readings=found)
    return _compare(again, moved[0], found) if moved else None


def _compare(here: Trial, moved: Trial, found: tuple[Reading, ...]) -> Verdict:
    """From the same trial twice, the second time on other ranks."""
    assert here.breach is not None, "the step came out well"
    if moved.breach is None:
        blame = Blame.RANK if found else Blame.UNKNOWN
        return Verdict(blame, here.breach, ranks=_ranks(found))
    found_again = conspicuous(moved.readings)
    if len(found) == len(here.readings) == len(found_again) > 1:
        return Verdict(Blame.MODEL, here.breach)
    travelled = {r.micro_batch for r in found} & {r.micro_batch for r in found_again}
    stayed = {r.rank for r in found_again if r.micro_batch not in travelled}
    if ranks := tuple(rank for rank in _ranks(found) if rank in stayed):
        return Verdict(Blame.RANK, here.breach, ranks=ranks)
    readings = tuple(r for r in found if r.micro_batch in travelled)
    return Verdict(Blame.DATA if readings else Blame.UNKNOWN, here.breach, readings=readings)


def conspicuous(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    """Readings that are not finite; if all are, those that are far longer than the others.

    The only reading of a trial is conspicuous in any case.
    """
    if len(readings) == 1:
        return tuple(readings)
    broken = tuple(reading for reading in readings if not reading.is_finite)
    if broken or not readings:
        return broken
    limit = OUTLIER * median_low([reading.norm for reading in readings])
    return tuple(reading for reading in readings if reading.norm > limit)


def _ranks(readings: Sequence[Reading]) -> tuple[int, ...]:
    return tuple(sorted({reading.rank for reading in readings}))


def _named(reading: Reading) -> str:
    shown = ", ".join(map(str, reading.samples[:NUM_NAMED]))
    more = ", ..." if len(reading.samples) > NUM_NAMED else ""
    return f"micro-batch {reading.micro_batch} (samples {shown}{more})"
