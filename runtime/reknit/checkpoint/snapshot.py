"""A copy of one rank's share of the state, and its way into a shard file."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from reknit.checkpoint.files import NewFile
from reknit.checkpoint.manifest import PieceEntry, TensorEntry, tensor_entries
from reknit.checkpoint.shards import Entry, write_tensors
from reknit.errors import ConfigurationError
from reknit.state.description import LocalState, Piece


class AbandonedError(Exception):
    """Ends a write that nobody waits for any more."""


@dataclass(slots=True)
class Snapshot:
    """What is written while training changes the live state."""

    version: int
    pieces: Sequence[Piece]
    """Copies in CPU memory; emptied once they are written."""
    tensors: dict[str, TensorEntry]
    scalars: str
    """JSON, as the live values may change in place."""
    abandoned: threading.Event = field(default_factory=threading.Event)
    commit_asked: bool = False

    def check(self) -> None:
        """Raises AbandonedError once the checkpoint is abandoned."""
        if self.abandoned.is_set():
            raise AbandonedError


def take_snapshot(version: int, state: LocalState) -> Snapshot:
    """Copies what this rank writes of `state`.

    Raises:
        ConfigurationError: a value in `state.scalars` is not JSON.
        ValueError: a piece does not fit its tensor's description.
    """
    pieces = []
    for piece in state.written:
        spec = state.specs[piece.name]
        if piece.data.numel() != len(piece.interval) or piece.interval.stop > spec.num_elements:
            raise ValueError(
                f"{piece.name}: {piece.data.numel()} elements cannot be {piece.interval} "
                f"of {spec.num_elements}"
            )
        if piece.data.dtype != spec.dtype:
            raise ValueError(f"{piece.name} is {piece.data.dtype}, but described as {spec.dtype}")
        if piece.data.numel():
            copy = piece.data.detach().flatten().to("cpu", copy=True)
            pieces.append(Piece(piece.name, piece.interval, copy))
    try:
        scalars = json.dumps(state.scalars)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the state holds a value that cannot be stored as JSON: {error}"
        ) from error
    return Snapshot(version, pieces, tensor_entries(state.specs), scalars)


def write_shard(file: NewFile, snapshot: Snapshot) -> tuple[PieceEntry, ...]:
    """Writes the pieces of `snapshot`, and says which they are.

    Raises:
        AbandonedError: the checkpoint was abandoned meanwhile.
        OSError: the file could not be written.
    """
    entries = tuple(
        PieceEntry(name=piece.name, start=piece.interval.start, stop=piece.interval.stop)
        for piece in snapshot.pieces
    )
    tensors = [
        Entry(entry.key, (len(piece.interval),), piece.data.dtype, partial(_whole, piece.data))
        for entry, piece in zip(entries, snapshot.pieces, strict=True)
    ]
    write_tensors(file, tensors, between=snapshot.check)
    return entries


def _whole(data: torch.Tensor) -> tuple[torch.Tensor]:
    return (data,)
