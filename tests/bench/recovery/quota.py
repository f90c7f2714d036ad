"""Which moment of a step is to be hit next: pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

from reknit.rank.board import Moment

STEP = (Moment.FORWARD, Moment.BACKWARD, Moment.REDUCE, Moment.GATE, Moment.APPLY)
MOMENTS: Mapping[str, Sequence[Moment]] = {
    "ddp": STEP,
    # Updated weights are gathered by the next forward pass.
    "fsdp": STEP,
    **dict.fromkeys(("zero1", "zero2", "zero3"), (*STEP, Moment.GATHER)),
    # Plain DDP reduces during backward, and has no gate.
    "torchrun": (Moment.FORWARD, Moment.BACKWARD, Moment.APPLY),
}
"""The moments that kills are spread over, by contestant."""
LEAST_SHARE = 0.1
"""Of the kills, in each moment."""


def next_moment(wanted: Sequence[Moment], hit: Counter[Moment]) -> Moment:
    """The moment that was hit least often so far, the earlier one of equals.

    A process may have gone on between the look at it and its death, so what counts is what it
    showed when it was dead.
    """
    return min(wanted, key=lambda moment: hit[moment])


def neglected(wanted: Sequence[Moment], hit: Counter[Moment]) -> list[Moment]:
    """Moments with less than their share of the kills."""
    least = int(LEAST_SHARE * hit.total())
    return [moment for moment in wanted if hit[moment] < least]
