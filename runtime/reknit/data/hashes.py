"""Hashes of the weights of each committed version, by which two runs are compared bit for bit.

One file per process, one JSON line per version: {"version", "rank", "generation", "hash"}. A line
reaches the kernel in a single write, so the death of the process leaves whole lines.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Final

import torch

from reknit.protocol.base import Generation
from reknit.protocol.settings import ENV_HASHES
from reknit.state.description import LocalState

_HASHED: Final = ("param/", "buffer/")
"""What is wrong in the optimizer's state shows in the weights one step later, and hashing it as
well would take three times as long."""


class WeightHashes:
    """The record of one process; without a folder there is none.

    Args:
        folder: where the records are; None if none are to be made.
    """

    def __init__(self, folder: Path | None) -> None:
        self._descriptor: int | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(
                folder / f"{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666
            )

    @classmethod
    def from_environment(cls) -> "WeightHashes":
        """The record that the environment asks for."""
        folder = os.environ.get(ENV_HASHES)
        return cls(Path(folder) if folder else None)

    @property
    def wanted(self) -> bool:
        """Whether `record` does anything; describing the state for it is not free either."""
        return self._descriptor is not None

    def record(self, version: int, state: LocalState, *, rank: int, generation: Generation) -> None:
        """Notes the hash of the weights and buffers that this rank holds of `version`."""
        if self._descriptor is None:
            return
        line = {
            "version": version,
            "rank": rank,
            "generation": str(generation),
            "hash": weight_hash(state),
        }
        os.write(self._descriptor, (json.dumps(line) + "\n").encode())

    def close(self) -> None:
        """Closes the file; nothing is recorded any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def weight_hash(state: LocalState) -> str:
    """SHA-256 of names, intervals and bytes, in the order of the pieces.

    Processors have instructions for it: several times as fast as BLAKE2 there.
    """
    found = hashlib.sha256()
    for piece in state.pieces:
        if piece.name.startswith(_HASHED):
            interval = piece.interval
            found.update(f"{piece.name} {interval.start} {interval.stop}\n".encode())
            found.update(piece.data.detach().cpu().view(torch.uint8).numpy().data)
    return found.hexdigest()
