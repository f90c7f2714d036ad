"""Completing a checkpoint once every rank's shard is durable."""

import json
from pathlib import Path

from pydantic import ValidationError

from reknit.checkpoint.files import NewFile, remove_files, sync_folder
from reknit.checkpoint.manifest import (
    MANIFEST_NAME,
    MARKER_NAME,
    Manifest,
    Marker,
    ShardEntry,
    TensorEntry,
    coverage_gap,
    encode,
    shard_entry_name,
)
from reknit.protocol.base import Generation, Json


class IncompleteError(Exception):
    """The shards in a folder do not make up one version of the state."""


def commit_checkpoint(
    folder: Path,
    *,
    version: int,
    generation: Generation,
    world_size: int,
    tensors: dict[str, TensorEntry],
    scalars: dict[str, Json],
) -> Manifest:
    """Writes manifest and marker of the checkpoint in `folder`, whose shards are all durable.

    Whatever fails, no marker is left.

    Raises:
        IncompleteError: a shard is missing, or the shards do not hold every element once.
        OSError: a file could not be written.
    """
    shards = tuple(_shard_entry(folder, version, rank) for rank in range(world_size))
    manifest = Manifest(
        version=version,
        generation=generation,
        world_size=world_size,
        tensors=tensors,
        scalars=scalars,
        shards=shards,
    )
    gap = coverage_gap(manifest.specs, shards)
    if gap is not None:
        raise IncompleteError(gap)
    with NewFile(folder / MANIFEST_NAME) as file:
        file.write(encode(manifest))
    expected = {MANIFEST_NAME, *(shard.file for shard in shards)}
    remove_files(path for path in folder.iterdir() if path.name not in expected)
    sync_folder(folder)
    marker = Marker(
        version=version, generation=generation, manifest_size=file.size, manifest_crc32=file.crc32
    )
    with NewFile(folder / MARKER_NAME, exclusive=True) as marker_file:
        marker_file.write(encode(marker))
    try:
        sync_folder(folder)
        sync_folder(folder.parent)
    except OSError:
        remove_files([folder / MARKER_NAME])
        raise
    return manifest


def _shard_entry(folder: Path, version: int, rank: int) -> ShardEntry:
    try:
        data = json.loads((folder / shard_entry_name(rank)).read_bytes())
        entry = ShardEntry.model_validate(data)
        size = (folder / entry.file).stat().st_size
    except (FileNotFoundError, ValidationError, ValueError) as error:
        raise IncompleteError(f"rank {rank} has no shard of version {version}: {error}") from error
    if (entry.version, entry.size) != (version, size):
        raise IncompleteError(f"the shard of rank {rank} is not the one it reported")
    return entry
