"""Ranks that compute more slowly than the others: pure.

What counts is the time that a rank spends by itself, on data and the forward pass. The backward
pass contains waiting for other ranks, and so does all that comes after it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Final, TypeAlias

from reknit.protocol.base import Generation
from reknit.protocol.ranks import StepDone

LOCAL_PHASES: Final = ("data", "forward")
WEIGHT: Final = 0.2
"""Of the latest step in the mean: that of a single odd one is below a tenth after four more."""
SLOW: Final = 1.5
"""Times the median above which a rank is slow."""
WELL: Final = 1.2
"""Times the median below which it is not slow any more."""
STEPS_IN_A_ROW: Final = 20


@dataclass(frozen=True, slots=True)
class Load:
    """How long one rank computes."""

    generation: Generation
    agent: str
    mean: float | None = None
    """Exponentially weighted, in seconds; None before its second step of the generation."""
    ratio: float | None = None
    """`mean` to the median of all ranks."""
    num_slow: int = 0
    """Steps in a row in which it was slow."""
    num_well: int = 0
    """Steps in a row in which it was not."""
    is_straggler: bool = False


Loads: TypeAlias = Mapping[int, Load]
"""By rank."""


def note(loads: Loads, rank: int, agent: str, done: StepDone) -> Loads:
    """One rank has made a step.

    The first one of a generation does not count: it contains what is done only once.
    """
    known = loads.get(rank)
    if known is None or known.generation != done.generation:
        was = known is not None and known.agent == agent and known.is_straggler
        return {**loads, rank: Load(done.generation, agent, is_straggler=was)}
    spent = [done.seconds[phase] for phase in LOCAL_PHASES if phase in done.seconds]
    if not spent:
        return loads
    seconds = sum(spent)
    mean = seconds if known.mean is None else known.mean + WEIGHT * (seconds - known.mean)
    return {**loads, rank: replace(known, mean=mean)}


def judge(loads: Loads, ranks: Collection[int]) -> tuple[Loads, tuple[int, ...]]:
    """These ranks, all of the generation, have made a step.

    Also the ranks that have just become stragglers, or have just ceased to be. Of two ranks the
    faster one is the measure.
    """
    present = {rank: loads[rank] for rank in sorted(ranks) if rank in loads}
    means = [load.mean for load in present.values() if load.mean]
    if len(means) < 2:
        return present, ()
    middle = median_low(means)
    judged = {rank: _judged(load, middle) for rank, load in present.items()}
    changed = tuple(
        rank for rank, load in judged.items() if load.is_straggler != present[rank].is_straggler
    )
    return judged, changed


def _judged(load: Load, middle: float) -> Load:
    if load.mean is None:
        return load
    ratio = load.mean / middle
    num_slow = load.num_slow + 1 if ratio > SLOW else 0
    num_well = load.num_well + 1 if ratio < WELL else 0
    is_straggler = load.is_straggler
    if num_slow >= STEPS_IN_A_ROW:
        is_straggler = True
    elif num_well >= STEPS_IN_A_ROW:
        is_straggler = False
    return replace(
        load, ratio=ratio, num_slow=num_slow, num_well=num_well, is_straggler=is_straggler
    )
