"""Where a strategy keeps parameters, buffers and optimizer state on this rank.

A strategy says which tensors its optimizer updates and what of which parameters lies in them; the
description of the state, and putting a described state back, follow from that for all strategies.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch

from reknit.protocol.base import Json
from reknit.state import optimizer as optimizer_state
from reknit.state.description import (
    Interval,
    LocalState,
    Piece,
    StateSource,
    TensorSpec,
    share,
)
from reknit.state.fitting import first_difference, mismatch
from reknit.state.intervals import Placed

DROPPABLE: Final = ("worker/", "compression/")
"""What names begin with that only the strategy which wrote them has a use for."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One of several ranks that hold the same, and divide the writing of it."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True, eq=False)
class Holder:
    """A tensor that the optimizer updates."""

    tensor: torch.Tensor
    names: tuple[str, ...]
    """The parameters of which some rank holds a part in its counterpart of this tensor."""
    placed: tuple[Placed, ...]
    """What of them this rank holds; `Placed.index` counts in `names`."""
    replica: Replica = Replica()
    """Which this rank is of those that hold the same of them, unless all ranks do."""

    def pieces(self, prefix: str, flat: torch.Tensor) -> Iterator[Piece]:
        """The pieces of a tensor that is laid out like `tensor`."""
        for placed in self.placed:
            start, stop = placed.offset, placed.offset + len(placed.interval)
            yield Piece(prefix + self.names[placed.index], placed.interval, flat[start:stop])


@dataclass(frozen=True, eq=False)
class StateLayout:
    """A rank's tensors with the names and places that the state knows them by."""

    optimizer: torch.optim.Optimizer
    shapes: Mapping[str, tuple[int, ...]]
    """Every parameter that a holder names, whole."""
    holders: tuple[Holder, ...]
    replicated: bool
    """Whether every rank holds every holder's parameters whole."""
    whole: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """By their names in the state: buffers and frozen parameters, the same on every rank."""
    fixed: tuple[Piece, ...] = ()
    """This rank's pieces of frozen parameters that are divided among the ranks."""
    fixed_specs: Mapping[str, TensorSpec] = field(default_factory=dict)
    """All tensors that `fixed` holds pieces of on some rank."""
    fixed_replica: Replica = Replica()
    """Which this rank is of those that hold the same of them."""

    def describe(self, rank: int, num_ranks: int) -> LocalState:
        """This rank's share of the state, as views of live memory."""
        specs: dict[str, TensorSpec] = {}
        everyone = Replica(rank, num_ranks)
        held: dict[Replica, list[Piece]] = defaultdict(list)
        for holder in self.holders:
            flat = holder.tensor.detach().view(-1)
            for name in holder.names:
                specs[f"param/{name}"] = TensorSpec(self.shapes[name], flat.dtype)
            replica = everyone if self.replicated else holder.replica
            held[replica] += holder.pieces("param/", flat)
        for holder in self.holders:
            for key, value in optimizer_state.tensors(self.optimizer, holder.tensor).items():
                replica = everyone if self.replicated else holder.replica
                held[replica] += self._optimizer_pieces(holder, key, value, specs)
        held[self.fixed_replica] += self.fixed
        specs |= {
            name: TensorSpec(tuple(tensor.shape), tensor.dtype)
            for name, tensor in self.whole.items()
        }
        specs |= self.fixed_specs
        held[everyone] += (
            Piece(name, Interval(0, tensor.numel()), tensor.detach().view(-1))
            for name, tensor in self.whole.items()
        )
        written = [
            piece
            for replica, pieces in held.items()
            for piece in share(pieces, replica.count, replica.index)
        ]
        scalars: dict[str, Json] = {
            "optimizer": optimizer_state.scalars(
                self.optimizer, [(holder.tensor, holder.names) for holder in self.holders]
            )
        }
        everything = [piece for pieces in held.values() for piece in pieces]
        return LocalState(specs, everything, written, scalars)

    def install(self, source: StateSource) -> None:
        """Reads this rank's share from `source`, whatever strategy and world it comes from.

        Raises:
            CheckpointMismatchError: it is the state of another model or optimizer.
        """
        self._check(source)
        with torch.no_grad():
            for holder in self.holders:
                for piece in holder.pieces("param/", holder.tensor.view(-1)):
                    _read(source, piece)
                self._install_optimizer(source, holder)
            for name, tensor in self.whole.items():
                _read(source, Piece(name, Interval(0, tensor.numel()), tensor.view(-1)))
            for piece in self.fixed:
                _read(source, piece)

    def set_parameters(self, values: Mapping[str, torch.Tensor]) -> None:
        """Copies whole parameters, by name, into what the optimizer updates."""
        with torch.no_grad():
            for holder in self.holders:
                for piece in holder.pieces("", holder.tensor.view(-1)):
                    interval = piece.interval
                    piece.data.copy_(values[piece.name].view(-1)[interval.start : interval.stop])

    def _optimizer_pieces(
        self, holder: Holder, key: str, value: torch.Tensor, specs: dict[str, TensorSpec]
    ) -> Iterator[Piece]:
        prefix = f"optimizer/{key}/"
        flat = value.view(-1)
        if value.shape == holder.tensor.shape:
            for name in holder.names:
                specs[prefix + name] = TensorSpec(self.shapes[name], value.dtype)
            yield from holder.pieces(prefix, flat)
        else:
            # Not one number per element, e.g. one per row: only whole parameters have such state.
            (name,) = holder.names
            specs[prefix + name] = TensorSpec(tuple(value.shape), value.dtype)
            yield Piece(prefix + name, Interval(0, flat.numel()), flat)

    def _install_optimizer(self, source: StateSource, holder: Holder) -> None:
        state = optimizer_state.read_scalars(source.scalars.get("optimizer"), holder.names)
        keys = {
            key: spec
            for key, name, spec in optimizer_state.tensor_specs(source)
            if name in holder.names
        }
        for key, spec in keys.items():
            prefix = f"optimizer/{key}/"
            whole = spec.shape == self.shapes[holder.names[0]] or len(holder.names) > 1
            shape = holder.tensor.shape if whole else torch.Size(spec.shape)
            state[key] = value = torch.zeros(shape, dtype=spec.dtype, device=holder.tensor.device)
            if whole:
                pieces = list(holder.pieces(prefix, value.view(-1)))
            else:
                name = prefix + holder.names[0]
                pieces = [Piece(name, Interval(0, value.numel()), value.view(-1))]
            for piece in pieces:
                if piece.name in source.specs:
                    _read(source, piece)
        optimizer_state.replace(self.optimizer, holder.tensor, state)

    def _check(self, source: StateSource) -> None:
        expected: dict[str, tuple[int, ...]] = {
            f"param/{name}": shape for name, shape in self.shapes.items()
        }
        expected |= {name: tuple(tensor.shape) for name, tensor in self.whole.items()}
        expected |= {name: spec.shape for name, spec in self.fixed_specs.items()}
        stored = {
            name: spec
            for name, spec in source.specs.items()
            if not name.startswith(("optimizer/", *DROPPABLE))
        }
        difference = first_difference(expected, stored)
        if difference is not None:
            raise mismatch(source, difference)
        for key, name, spec in optimizer_state.tensor_specs(source):
            if name not in self.shapes:
                raise mismatch(source, f"it holds {key} of {name}, which is not trained here")
            if not self.replicated and spec.shape != self.shapes[name]:
                raise mismatch(source, f"{key} of {name} cannot be divided among ranks")
        optimizer_state.check_class(source, self.optimizer)


def _read(source: StateSource, piece: Piece) -> None:
    piece.data.copy_(source.read(piece.name, piece.interval))
