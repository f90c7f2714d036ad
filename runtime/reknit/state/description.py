"""Which rank holds which part of which tensor.

A tensor of the training state has a name and a shape; seen flat (row-major) it is a range of
elements. A rank holds intervals of it. Checkpoints, transfers and re-sharding only know this
description, never a strategy.

Names: `param/NAME` (FP32 master weights; a buffer is `buffer/NAME`), and for optimizer state
`optimizer/KEY/NAME`, e.g. `optimizer/exp_avg/blocks.0.weight`. Tied weights appear once, under the
first of their names. What one rank has for itself is `worker/RANK/KEY/NAME`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import torch

from reknit.protocol.base import Json
from reknit.state.intervals import Interval, even_intervals

__all__ = [
    "Interval",
    "LocalState",
    "Piece",
    "StateSource",
    "TensorSpec",
    "even_intervals",
    "parameter_of",
    "share",
]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A whole tensor of the state, whoever holds it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        """Elements of the flattened tensor."""
        return prod(self.shape)


@dataclass(slots=True)
class Piece:
    """An interval of a tensor as a rank holds it.

    `data` is a flat view of live memory, `len(interval)` elements: writing to it installs state,
    reading it takes a snapshot.
    """

    name: str
    interval: Interval
    data: torch.Tensor


@dataclass(slots=True)
class LocalState:
    """A rank's share of one version of the state.

    Over all ranks the pieces cover every tensor of `specs`. An element may be held by several
    ranks; `written` marks the pieces that this rank writes to a checkpoint, which over all ranks
    are each element exactly once.
    """

    specs: Mapping[str, TensorSpec]
    """Every tensor of the state, the same on all ranks."""
    pieces: Sequence[Piece]
    written: Sequence[Piece]
    scalars: dict[str, Json] = field(default_factory=dict)
    """State that is no tensor, the same on all ranks: optimizer step counts, schedule, scaler."""
    own: str | None = None
    """What tensors are called that no other rank has, up to their last part; needed whole."""
    replaceable: str | None = None
    """What tensors are called that training goes on without, beginning them anew, if nobody holds
    them."""


def parameter_of(name: str) -> str:
    """The parameter that a tensor of the state is, or belongs to; a buffer's is its own name."""
    kind, _, rest = name.partition("/")
    return rest.partition("/")[2] if kind == "optimizer" else rest


class StateSource(Protocol):
    """Where a rank's state can be read from: a checkpoint, later a neighbour."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor that can be read."""
        ...

    @property
    def scalars(self) -> Mapping[str, Json]:
        """The state that is no tensor."""
        ...

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        """A new flat CPU tensor of the elements in `interval`.

        Raises:
            KeyError: there is no such tensor.
        """
        ...


def share(pieces: Iterable[Piece], num_ranks: int, rank: int) -> Iterator[Piece]:
    """The part of `pieces`, which every rank holds alike, that `rank` writes.

    Over all ranks each element comes exactly once, and all ranks get about as many.
    """
    pieces = list(pieces)
    own = list(even_intervals(sum(len(piece.interval) for piece in pieces), num_ranks))[rank]
    start = 0
    for piece in pieces:
        common = Interval(start, start + len(piece.interval)).intersect(own)
        if common is not None:
            first, last = common.start - start, common.stop - start
            interval = Interval(piece.interval.start + first, piece.interval.start + last)
            yield Piece(piece.name, interval, piece.data[first:last])
        start += len(piece.interval)
