"""Which checkpoints a folder keeps."""

import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reknit.checkpoint.files import remove_files
from reknit.checkpoint.manifest import MARKER_NAME, parse_folder_name
from reknit.protocol.base import Generation


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint's folder."""

    name: str
    version: int
    generation: Generation
    committed: bool
    """It has a marker."""

    def age(self) -> tuple[int, tuple[int, int]]:
        """Orders folders from the oldest state to the newest."""
        return self.version, self.generation.key()


def expired(
    found: Iterable[Found],
    *,
    committed: int,
    generation: Generation,
    keep: int,
    inherited: Collection[str],
) -> list[Found]:
    """The folders to remove after `generation` has committed version `committed`.

    Kept are the newest `keep` committed ones up to that version. Committed ones above it are left
    alone: training went back behind them, as they could not be read. Folders without a marker go
    if nobody can be writing them: those of older generations, those of versions that this
    generation has passed, and those that lay there before it began.
    """
    removed = []
    complete = []
    for entry in found:
        older = entry.generation.key() < generation.key()
        passed = entry.generation == generation and entry.version < committed
        if entry.committed:
            if entry.version <= committed:
                complete.append(entry)
        elif older or passed or (entry.name in inherited and entry.generation != generation):
            removed.append(entry)
    complete.sort(key=Found.age)
    return removed + complete[: max(0, len(complete) - keep)]


def apply_retention(
    folder: Path,
    *,
    committed: int,
    generation: Generation,
    keep: int,
    inherited: Collection[str],
) -> None:
    """Removes what has expired, a marker always first, so that no half of a checkpoint counts."""
    for entry in expired(
        find(folder),
        committed=committed,
        generation=generation,
        keep=keep,
        inherited=inherited,
    ):
        path = folder / entry.name
        remove_files([path / MARKER_NAME])
        shutil.rmtree(path, ignore_errors=True)


def find(folder: Path) -> Sequence[Found]:
    """The checkpoints' folders in `folder`, from the oldest state to the newest."""
    found = []
    for path in checkpoint_folders(folder):
        parsed = parse_folder_name(path.name)
        if parsed is not None:
            version, generation = parsed
            found.append(Found(path.name, version, generation, (path / MARKER_NAME).exists()))
    return sorted(found, key=Found.age)


def checkpoint_folders(folder: Path) -> list[Path]:
    """The paths in `folder` that are named like checkpoints; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if parse_folder_name(path.name) is not None]
