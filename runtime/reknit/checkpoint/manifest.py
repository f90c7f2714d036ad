"""What a checkpoint's folder says about itself: its name, its manifest, its marker."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from pydantic import ValidationError

from reknit.protocol.base import Generation, Json, Message
from reknit.state.description import Interval, TensorSpec

FORMAT: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MARKER_NAME: Final = "COMMITTED"

_FOLDER_NAME = re.compile(r"step-(\d{8,})\.g(\d+)\.(\d+)")


def folder_name(version: int, generation: Generation) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{version:08d}.g{generation}"


def parse_folder_name(name: str) -> tuple[int, Generation] | None:
    """Version and generation of a checkpoint's folder; None for any other name."""
    match = _FOLDER_NAME.fullmatch(name)
    if match is None:
        return None
    version, incarnation, counter = map(int, match.groups())
    return version, Generation(incarnation=incarnation, counter=counter)


def shard_name(rank: int) -> str:
    """The file that `rank` writes its tensors to."""
    return f"shard-{rank:05d}.safetensors"


def shard_entry_name(rank: int) -> str:
    """The file that tells rank 0 what is in the shard of `rank`; gone once committed."""
    return f"shard-{rank:05d}.json"


class PieceEntry(Message):
    """An interval of a tensor within a shard."""

    name: str
    start: int
    stop: int

    @property
    def key(self) -> str:
        """The piece's name in the shard file."""
        return f"{self.name}[{self.start}:{self.stop}]"

    @property
    def interval(self) -> Interval:
        """The elements it holds."""
        return Interval(self.start, self.stop)


class ShardEntry(Message):
    """One shard file."""

    version: int
    file: str
    size: int
    crc32: int
    pieces: tuple[PieceEntry, ...]


class TensorEntry(Message):
    """One whole tensor."""

    shape: tuple[int, ...]
    dtype: str
    """torch's name, e.g. float32."""


class Manifest(Message):
    """The content of a checkpoint."""

    format: int = FORMAT
    version: int
    generation: Generation
    world_size: int
    tensors: dict[str, TensorEntry]
    scalars: dict[str, Json]
    shards: tuple[ShardEntry, ...]

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Every tensor of the state."""
        return {
            name: TensorSpec(entry.shape, dtype_of(entry.dtype))
            for name, entry in self.tensors.items()
        }


class Marker(Message):
    """The proof that everything before it is durable."""

    version: int
    generation: Generation
    manifest_size: int
    manifest_crc32: int


def encode(message: Message) -> bytes:
    """JSON that keeps every number: Python's, as JSON proper has no infinity and no NaN."""
    return json.dumps(message.model_dump(mode="python"), indent=1).encode()


def decode_manifest(data: bytes) -> Manifest:
    """The manifest in `data`.

    Raises:
        ValueError: it is not one, or of a format that this version does not know.
    """
    try:
        manifest = Manifest.model_validate(json.loads(data))
        _ = manifest.specs
    except ValidationError as error:
        raise ValueError(f"{error.error_count()} fields are missing or wrong") from error
    if manifest.format != FORMAT:
        raise ValueError(f"its format is {manifest.format}, this version reads {FORMAT}")
    return manifest


def tensor_entries(specs: Mapping[str, TensorSpec]) -> dict[str, TensorEntry]:
    """The manifest's words for `specs`."""
    return {
        name: TensorEntry(shape=spec.shape, dtype=str(spec.dtype).removeprefix("torch."))
        for name, spec in specs.items()
    }


def dtype_of(name: str) -> torch.dtype:
    """The number format of that name.

    Raises:
        ValueError: there is none.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"there is no number format {name!r}")
    return dtype


def coverage_gap(specs: Mapping[str, TensorSpec], shards: Sequence[ShardEntry]) -> str | None:
    """What is wrong unless the shards hold each element of each tensor exactly once."""
    held: dict[str, list[PieceEntry]] = defaultdict(list)
    for shard in shards:
        for piece in shard.pieces:
            held[piece.name].append(piece)
    unknown = sorted(held.keys() - specs.keys())
    if unknown:
        return f"{unknown[0]} is in a shard but not part of the state"
    for name, spec in specs.items():
        position = 0
        for piece in sorted(held[name], key=lambda piece: piece.start):
            if piece.start > position:
                break
            if piece.start < position:
                return f"elements {piece.start} to {position} of {name} are in two shards"
            position = piece.stop
        if position != spec.num_elements:
            return f"element {position} of {name} is in no shard"
    return None
