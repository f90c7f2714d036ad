"""The record of which samples each committed version was trained on.

One file per generation and rank, one JSON line per version. A line reaches the kernel in a single
write, so the death of the process leaves whole lines; only a power cut can lose the last ones.
"""

import json
import os
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from reknit.protocol.base import Generation

_FILE_NAME = re.compile(r"ledger\.g(\d+)\.(\d+)\.rank-(\d+)\.jsonl")


class Ledger:
    """One rank's record in one generation."""

    def __init__(self, folder: str | PathLike[str], generation: Generation, rank: int) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"ledger.g{generation}.rank-{rank:05d}.jsonl"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def record(self, version: int, sample_ids: Sequence[int]) -> None:
        """Notes this rank's samples in the global batch that leads to `version`.

        To be told before the step's gate: once that is passed, the step counts even if this rank
        dies. A step that is taken anew in a later generation supersedes this one.
        """
        line = json.dumps({"version": version, "samples": list(sample_ids)}) + "\n"
        os.write(self._descriptor, line.encode())

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def committed(folder: str | PathLike[str]) -> dict[int, list[int]]:
    """The samples of every version in the history that counts, ranks in order.

    A generation starts from a version of an earlier one, and what that earlier one did beyond it
    is superseded: for each version the record of the newest generation counts that has it, unless
    a newer one began before it.
    """
    history: dict[int, list[int]] = {}
    superseded_from: int | None = None
    for _, paths in sorted(_files(Path(folder)).items(), reverse=True):
        versions: dict[int, list[int]] = {}
        for _, path in sorted(paths):
            for version, sample_ids in _records(path).items():
                versions.setdefault(version, []).extend(sample_ids)
        history |= {
            version: sample_ids
            for version, sample_ids in versions.items()
            if superseded_from is None or version < superseded_from
        }
        if versions:
            first = min(versions)
            superseded_from = first if superseded_from is None else min(first, superseded_from)
    return dict(sorted(history.items()))


def _files(folder: Path) -> dict[tuple[int, int], list[tuple[int, Path]]]:
    """The ledger's files with their ranks, by generation."""
    files: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    for path in folder.iterdir():
        match = _FILE_NAME.fullmatch(path.name)
        if match is not None:
            incarnation, counter, rank = map(int, match.groups())
            files.setdefault((incarnation, counter), []).append((rank, path))
    return files


def _records(path: Path) -> dict[int, list[int]]:
    """The whole lines of a file; one without its end was never acknowledged."""
    records = {}
    for line in path.read_text().split("\n")[:-1]:
        entry = json.loads(line)
        records[int(entry["version"])] = [int(sample_id) for sample_id in entry["samples"]]
    return records
