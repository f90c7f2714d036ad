"""Processes that write checkpoints until they are killed, forked from one that has imported torch.

Reads one JSON request per line: {"folder", "counter", "keep", "phase", "occurrence"}. The child
kills itself at that occurrence of the phase; without a phase it writes until somebody kills it, or
commits `versions` versions. Writes `pid N`, `committed VERSION` and at last `end STATUS`.
"""

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch

import reknit.checkpoint.writer as writer_module
from reknit.checkpoint.files import NewFile
from reknit.checkpoint.reader import newest
from reknit.checkpoint.writer import Checkpointer
from reknit.protocol.base import Generation
from reknit.state.description import LocalState, Piece, TensorSpec, even_intervals

NUM_ELEMENTS = 50_000
WORLD_SIZE = 2
PATIENCE = timedelta(seconds=20)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


class Fate:
    """Counts the moments of one phase and ends the process at the chosen one."""

    def __init__(self, phase: str | None, occurrence: int) -> None:
        self.phase = phase
        self.left = occurrence

    def __call__(self, phase: str) -> None:
        if phase == self.phase:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def kind_of(path: object) -> str:
    """The word for a file in the names of the phases."""
    name = Path(str(path)).name
    if name == "COMMITTED":
        return "marker"
    if name == "manifest.json":
        return "manifest"
    if name.startswith("shard"):
        return "shard" if name.endswith("safetensors") else "entry"
    return "folder"


def watch(fate: Fate) -> None:
    """Puts moments before and after everything that happens to the disk, and within writes."""

    def around(owner: object, name: str, phase_of) -> None:
        original = getattr(owner, name)

        def watched(*arguments, **options):
            phase = phase_of(*arguments)
            fate(phase)
            result = original(*arguments, **options)
            fate(phase)
            return result

        setattr(owner, name, watched)

    def path_of(descriptor: int) -> Path:
        return Path(f"/proc/self/fd/{descriptor}").readlink()

    around(writer_module, "take_snapshot", lambda *_: "snapshot")
    around(os, "mkdir", lambda *_: "mkdir")
    around(os, "fsync", lambda descriptor: f"fsync {kind_of(path_of(descriptor))}")
    around(os, "unlink", lambda path, *_: f"remove {kind_of(path)}")
    around(os, "rmdir", lambda *_: "remove folder")
    around(NewFile, "__enter__", lambda file: f"create {kind_of(file.path)}")

    write = NewFile.write

    def write_in_halves(file: NewFile, data) -> None:
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            write(file, part)
            file._file.flush()
            fate(f"write {kind_of(file.path)}")

    NewFile.write = write_in_halves


def state(rank: int, version: int) -> LocalState:
    interval = list(even_intervals(NUM_ELEMENTS, WORLD_SIZE))[rank]
    piece = Piece("param/w", interval, torch.full((len(interval),), float(version)))
    specs = {"param/w": TensorSpec((NUM_ELEMENTS,), torch.float32)}
    return LocalState(specs, [piece], [piece], {"version": version})


def train(request: dict) -> None:
    folder = Path(request["folder"])
    watch(Fate(request.get("phase"), request.get("occurrence", 0)))
    ranks = [
        Checkpointer(
            folder,
            rank=rank,
            world_size=WORLD_SIZE,
            generation=Generation(incarnation=1, counter=request["counter"]),
            keep=request["keep"],
        )
        for rank in range(WORLD_SIZE)
    ]
    info = newest(folder)
    start = 0 if info is None else info.version
    for version in range(start + 1, start + 1 + request["versions"]):
        for rank, checkpointer in enumerate(ranks):
            assert checkpointer.begin(version, state(rank, version))
        for checkpointer in ranks:
            assert checkpointer.wait(PATIENCE)
        ranks[0].commit(version)
        assert ranks[0].wait(PATIENCE)
        assert ranks[0].progress().committed, ranks[0].progress()
        say(f"committed {version}")


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                say(f"pid {os.getpid()}")
                train(json.loads(line))
                status = 0
            finally:
                os._exit(status)
        say(f"end {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    main()
