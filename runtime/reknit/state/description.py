"""Which rank holds which part of which tensor.

A tensor of the training state has a name and a shape; seen flat (row-major) it is a range of
elements. A rank holds intervals of it. Checkpoints, transfers and re-sharding only know this
description, never a strategy.

Names: `param/NAME` (FP32 master weights; a buffer is `buffer/NAME`), and for optimizer state
`optimizer/KEY/NAME`, e.g. `optimizer/exp_avg/blocks.0.weight`. Tied weights appear once, under the
first of their names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import torch

from reknit.protocol.base import Json


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Elements start <= i < stop of a flattened tensor."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"no interval: {self.start}..{self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def intersect(self, other: "Interval") -> "Interval | None":
        """The common elements; None when there are none."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return Interval(start, stop) if start < stop else None


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


def even_intervals(num_elements: int, num_parts: int) -> Iterator[Interval]:
    """Cuts a flat tensor into `num_parts` intervals whose lengths differ by at most one."""
    base, extra = divmod(num_elements, num_parts)
    start = 0
    for part in range(num_parts):
        stop = start + base + (1 if part < extra else 0)
        yield Interval(start, stop)
        start = stop
