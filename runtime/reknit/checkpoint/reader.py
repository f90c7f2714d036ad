"""Finding and reading checkpoints."""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import torch
from pydantic import ValidationError
from safetensors import safe_open

from reknit.checkpoint.files import crc32_of
from reknit.checkpoint.manifest import (
    MANIFEST_NAME,
    MARKER_NAME,
    Manifest,
    Marker,
    PieceEntry,
    decode_manifest,
    parse_folder_name,
)
from reknit.checkpoint.retention import Found, find
from reknit.errors import ConfigurationError
from reknit.protocol.base import Generation, Json
from reknit.state.description import Interval, TensorSpec


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A complete checkpoint."""

    path: Path
    version: int
    generation: Generation
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Rejected:
    """A folder that is named like a checkpoint and cannot be used."""

    path: Path
    reason: str

    @property
    def was_committed(self) -> bool:
        """It was complete once, so that someone may count on it."""
        return (self.path / MARKER_NAME).exists()


def newest(folder: str | PathLike[str], *, verify_contents: bool = True) -> CheckpointInfo | None:
    """The complete checkpoint of the highest version (then generation) in `folder`, None without.

    Marker, sizes and checksums are checked. `verify_contents=False` leaves out the checksums of
    the shards, which take reading them: for ranks that know another rank does it.

    Raises:
        ConfigurationError: the folder cannot be read.
    """
    return search(folder, verify_contents=verify_contents)[0]


def search(
    folder: str | PathLike[str], *, verify_contents: bool = True
) -> tuple[CheckpointInfo | None, list[Rejected]]:
    """What `newest` returns, and what it has passed over on the way there, the newest first.

    Raises:
        ConfigurationError: the folder cannot be read.
    """
    passed: list[Rejected] = []
    for found in reversed(_find(Path(folder))):
        examined = examine(Path(folder, found.name), verify_contents=verify_contents)
        if isinstance(examined, CheckpointInfo):
            return examined, passed
        passed.append(examined)
    return None, passed


def examine(
    path: str | PathLike[str], *, verify_contents: bool = True
) -> CheckpointInfo | Rejected:
    """The checkpoint in the folder `path`, or the reason why there is none."""
    path = Path(path)
    named = parse_folder_name(path.name)
    if named is None:
        return Rejected(path, "it is not named like a checkpoint")
    if not (path / MARKER_NAME).exists():
        return Rejected(path, "it was not committed")
    version, generation = named
    try:
        manifest = _read_manifest(path)
        if (manifest.version, manifest.generation) != named:
            raise ValueError("its manifest belongs to another checkpoint")
        for shard in manifest.shards:
            size = (path / shard.file).stat().st_size
            if size != shard.size:
                raise ValueError(f"{shard.file} has {size} bytes instead of {shard.size}")
            if verify_contents and crc32_of(path / shard.file) != shard.crc32:
                raise ValueError(f"{shard.file} is damaged: its checksum differs")
    except OSError as error:
        return Rejected(path, f"{Path(error.filename or path).name}: {error.strerror}")
    except ValueError as error:
        return Rejected(path, str(error))
    return CheckpointInfo(path, version, generation, manifest)


def _find(folder: Path) -> list[Found]:
    try:
        return list(find(folder))
    except OSError as error:
        raise ConfigurationError(
            f"the checkpoints in {folder} cannot be read: {error.strerror}"
        ) from error


def _read_manifest(path: Path) -> Manifest:
    """The manifest in a committed folder; ValueError if it or the marker is damaged."""
    try:
        marker = Marker.model_validate(json.loads((path / MARKER_NAME).read_bytes()))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{MARKER_NAME} is incomplete") from error
    data = (path / MANIFEST_NAME).read_bytes()
    if (len(data), crc32(data)) != (marker.manifest_size, marker.manifest_crc32):
        raise ValueError(f"{MANIFEST_NAME} is damaged: its size or checksum differs")
    return decode_manifest(data)


class CheckpointSource:
    """Reads a checkpoint's state, only the parts that are asked for.

    Shards are mapped into memory, so what is read counts as page cache and not as the process's
    own memory. Not for several threads at once.
    """

    def __init__(self, info: CheckpointInfo) -> None:
        self.info = info
        self._specs = info.manifest.specs
        self._pieces: dict[str, list[tuple[PieceEntry, str]]] = defaultdict(list)
        for shard in info.manifest.shards:
            for piece in shard.pieces:
                self._pieces[piece.name].append((piece, shard.file))
        for pieces in self._pieces.values():
            pieces.sort(key=_stop)
        self._open: dict[str, Any] = {}

    def __str__(self) -> str:
        return str(self.info.path)

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor in the checkpoint."""
        return self._specs

    @property
    def scalars(self) -> Mapping[str, Json]:
        """The state that is no tensor."""
        return self.info.manifest.scalars

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        """A new flat CPU tensor of the elements in `interval`.

        Raises:
            KeyError: there is no such tensor.
            ValueError: the interval reaches beyond the tensor.
        """
        spec = self._specs[name]
        if interval.stop > spec.num_elements:
            raise ValueError(f"{name} has {spec.num_elements} elements, none at {interval}")
        result = torch.empty(len(interval), dtype=spec.dtype)
        pieces = self._pieces.get(name, [])
        for piece, file in pieces[bisect_right(pieces, interval.start, key=_stop) :]:
            common = piece.interval.intersect(interval)
            if common is None:
                break
            stored = self._file(file).get_slice(piece.key)
            result[common.start - interval.start : common.stop - interval.start] = stored[
                common.start - piece.start : common.stop - piece.start
            ]
        return result

    def close(self) -> None:
        """Closes the files."""
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = safe_open(self.info.path / name, framework="pt")
        return self._open[name]


def open_checkpoint(info: CheckpointInfo) -> CheckpointSource:
    """The state in a checkpoint, as a `StateSource`."""
    return CheckpointSource(info)


def _stop(entry: tuple[PieceEntry, str]) -> int:
    return entry[0].stop
