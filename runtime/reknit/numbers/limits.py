"""Which outcome of a gate is wrong, or so unusual that it is looked into: pure."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, Self

from reknit.protocol.base import Json

NUM_KEPT: Final = 64
"""Latest norms that an outlier is measured by."""
NUM_NEEDED: Final = 16
"""Fewer norms are no measure."""


class NormHistory:
    """Gradient norms of the latest committed updates, the same on every rank.

    Args:
        norms: the oldest first.
    """

    def __init__(self, norms: Iterable[float] = ()) -> None:
        self._norms = deque(norms, maxlen=NUM_KEPT)

    def add(self, norm: float) -> None:
        """An update with this norm, before clipping, was committed."""
        self._norms.append(norm)

    def limit(self, factor: float | None) -> float:
        """The norm above which one is an outlier; infinite as long as there is no measure.

        The largest norm of the latest steps is the measure, not their spread: training that has
        been smooth for a while would be halted by its first larger batch.
        """
        if factor is None or len(self._norms) < NUM_NEEDED:
            return math.inf
        return factor * max(self._norms)

    def to_json(self) -> list[Json]:
        """What `from_json` takes."""
        return list(self._norms)

    @classmethod
    def from_json(cls, encoded: Json) -> Self:
        """What `to_json` gave; an empty history for None."""
        norms = encoded if isinstance(encoded, list) else []
        return cls(float(norm) for norm in norms if isinstance(norm, float | int))


def breach(loss: float, norm: float, limit: float) -> str | None:
    """What is wrong with a step, as a clause; None if nothing is.

    Args:
        loss: mean over the global batch.
        norm: of its gradient, without the loss scale.
        limit: the largest norm that is usual.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"the loss is {loss:g} and the norm of the gradient is {norm:g}"
    if norm > limit:
        return f"the norm of the gradient is {norm:.4g}, far above the {limit:.4g} that are usual"
    return None
