"""What Linux offers for keeping a tree of processes together."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int | bytes) -> None:
    if _LIBC.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when `parent` ends; at once when it has ended already.

    Raises:
        SystemExit: `parent` is no longer this process' parent.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


def outlive_parent() -> None:
    """Undoes `die_with_parent`."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Orphans among this process' descendants become its children, not those of process 1."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_title(title: str) -> None:
    """Names this thread in process lists; 15 bytes are kept."""
    _prctl(_PR_SET_NAME, title.encode()[:15])


def has_accelerator() -> bool:
    """Whether this machine has a driver for accelerators: NVIDIA's, AMD's or another."""
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd", "accel"))


def num_threads() -> int:
    """Threads of this process, those of libraries included."""
    return len(list(Path("/proc/self/task").iterdir()))


def children() -> set[int]:
    """The processes whose parent is this process, zombies included."""
    own = os.getpid()
    return {pid for pid, parent in _parents() if parent == own}


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # The name between the parentheses may contain anything.
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(fields[1])


def kill_group(leader: int, number: int) -> None:
    """Sends a signal to the process group that `leader`, a child not yet waited for, has made.

    A child that has not come to make its group is sent the signal itself.
    """
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(leader, number)
