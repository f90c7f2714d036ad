"""The progress board: what each rank is doing at this moment, for whoever looks from outside.

Each rank maps a file of its own and writes to that memory, so showing something costs no system
call, and what a process was doing when it died stays to be read.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from reknit.protocol.settings import ENV_BOARD

_LAYOUT: Final = struct.Struct("<qqqd")
_SIZE: Final = 64
"""Bytes of a file; more than the layout takes, so that a rank's place is one cache line."""


class Moment(IntEnum):
    """What a rank is doing."""

    IDLE = 0
    DATA = 1
    FORWARD = 2
    BACKWARD = 3
    REDUCE = 4
    """Waiting for the last gradients to be reduced, and for their norm."""
    PREPARE = 5
    GATE = 6
    APPLY = 7
    GATHER = 8
    """Collecting the weights that the update has changed."""
    EVALUATE = 9
    CHECKPOINT = 10
    JOIN = 11
    AGREE = 12
    TRANSFER = 13
    CLOSING = 14


@dataclass(frozen=True, slots=True)
class Shown:
    """What one process shows."""

    pid: int
    rank: int
    """-1 while the process has no place."""
    step: int
    """The version that it holds."""
    moment: Moment
    time: float
    """Of the last change, seconds since the epoch."""


class Board:
    """This process's place on the board; without a folder nothing is shown.

    Args:
        folder: where the board is; None if there is none.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.rank = -1
        """To be set when the process takes a place; shown from the next change on."""
        self._clock = clock
        self._moment = Moment.IDLE
        self._step = 0
        self._memory = None if folder is None else _mapped(folder / str(os.getpid()))

    @classmethod
    def from_environment(cls) -> "Board":
        """The board that the environment names."""
        folder = os.environ.get(ENV_BOARD)
        return cls(Path(folder) if folder else None)

    def enter(self, moment: Moment, step: int) -> None:
        """Shows what the rank does from now on, and the version that it holds."""
        if self._memory is None:
            return
        self._moment, self._step = moment, step
        self._show(self._memory)

    def close(self) -> None:
        """Shows nothing more; what was shown last stays."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _show(self, memory: mmap.mmap) -> None:
        # One copy: a reader hardly ever comes in between, and notices when it does.
        memory[: _LAYOUT.size] = _LAYOUT.pack(self.rank, self._step, self._moment, self._clock())


class BoardReader:
    """Reads a board again and again; files stay mapped, so a look takes microseconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memories: dict[int, mmap.mmap] = {}

    def read(self) -> dict[int, Shown]:
        """What each process has shown last, by its id; those that have ended are among them."""
        shown = {}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if (found := self._shown(path)) is not None:
                shown[found.pid] = found
        return shown

    def close(self) -> None:
        """Unmaps the files."""
        while self._memories:
            self._memories.popitem()[1].close()

    def _shown(self, path: Path) -> Shown | None:
        pid = int(path.name)
        if pid not in self._memories:
            if path.stat().st_size < _SIZE:
                return None  # being created
            with path.open("rb") as file:
                self._memories[pid] = mmap.mmap(file.fileno(), _SIZE, prot=mmap.PROT_READ)
        memory = self._memories[pid]
        raw = memory[: _LAYOUT.size]
        while raw != (raw := memory[: _LAYOUT.size]):
            pass  # written meanwhile
        rank, step, moment, changed = _LAYOUT.unpack(raw)
        return Shown(pid, rank, step, Moment(moment), changed)


def read_board(folder: Path) -> dict[int, Shown]:
    """One look at a board: what each process has shown last, by its id."""
    reader = BoardReader(folder)
    try:
        return reader.read()
    finally:
        reader.close()


def _mapped(path: Path) -> mmap.mmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Not truncated first: a reader may have mapped the file of an earlier process of this id.
        os.ftruncate(descriptor, _SIZE)
        memory = mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
    memory[: _LAYOUT.size] = _LAYOUT.pack(-1, 0, Moment.IDLE, 0.0)
    return memory
