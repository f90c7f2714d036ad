"""What a checkpoint holds of a range, on its way from the server to the worker that writes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from reknit.checkpoint.shards import DTYPE_CODES
from reknit.protocol.base import Json
from reknit.state import optimizer as optimizer_state
from reknit.state.description import Interval, LocalState, Piece, StateSource, TensorSpec
from reknit.state.layout import StateLayout

Recording: TypeAlias = tuple[dict[str, torch.Tensor], dict[str, Json]]
"""Tensors by number of the piece, and the description of all pieces."""
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}


@dataclass(frozen=True)
class Part:
    """Those tensors of a source that `is_part` names; the numbers are those of the whole."""

    source: StateSource
    is_part: Callable[[str], bool]

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor that can be read."""
        return {name: spec for name, spec in self.source.specs.items() if self.is_part(name)}

    @property
    def scalars(self) -> Mapping[str, Json]:
        """The state that is no tensor."""
        return self.source.scalars

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        """A new flat CPU tensor of the elements in `interval`."""
        return self.source.read(name, interval)

    def __str__(self) -> str:
        return str(self.source)


def record(layout: StateLayout, *, whole: bool) -> Recording:
    """The state of one range, in copies; without `whole` it is described and no tensor comes."""
    state = layout.describe(0, 1)
    specs: dict[str, Json] = {
        name: [list(spec.shape), DTYPE_CODES[spec.dtype]] for name, spec in state.specs.items()
    }
    tensors: dict[str, torch.Tensor] = {}
    pieces: list[Json] = []
    for number, piece in enumerate(state.pieces if whole else ()):
        tensors[str(number)] = piece.data.detach().clone()
        pieces.append([piece.name, piece.interval.start, piece.interval.stop])
    held = [(holder.tensor, holder.names) for holder in layout.holders if holder.placed]
    return tensors, {
        "specs": specs,
        "pieces": pieces,
        "optimizer": optimizer_state.scalars(layout.optimizer, held),
        # A range does not know the numbers of parameters of which it holds nothing.
        "names": [name for _, names in held for name in names],
    }


def combine_recordings(
    recordings: Sequence[tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]],
) -> LocalState:
    """The state that several ranges, or all, describe; its pieces are those that came along."""
    specs: dict[str, TensorSpec] = {}
    pieces: list[Piece] = []
    for tensors, described in recordings:
        for name, (shape, code) in described["specs"].items():
            specs[name] = TensorSpec(tuple(shape), _DTYPES[code])
        for number, (name, start, stop) in enumerate(described["pieces"]):
            pieces.append(Piece(name, Interval(start, stop), tensors[str(number)]))
    scalars: dict[str, Json] = {"optimizer": _numbers([found for _, found in recordings])}
    return LocalState(specs, pieces, pieces, scalars)


def _numbers(described: Sequence[Mapping[str, Any]]) -> Json:
    """The optimizer's single numbers, as `reknit.state.optimizer.scalars` has them for a model."""
    dtypes: dict[str, str | None] = {}
    values: dict[str, dict[str, Json]] = {}
    for found in described:
        for key, entry in found["optimizer"]["numbers"].items():
            dtypes[key] = entry["dtype"]
            given = entry["values"]
            own = given if isinstance(given, dict) else dict.fromkeys(found["names"], given)
            values.setdefault(key, {}).update(own)
    names = {name for found in described for name in found["names"]}
    numbers: dict[str, Json] = {}
    for key, own in values.items():
        alike = own.keys() == names and len(set(map(str, own.values()))) == 1
        numbers[key] = {"dtype": dtypes[key], "values": next(iter(own.values())) if alike else own}
    return {"class": described[0]["optimizer"]["class"], "numbers": numbers}
