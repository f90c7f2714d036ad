"""Finds and ends processes by what stands in their environment; needs only the standard library."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ENV_SESSION: Final = "REKNIT_SESSION"
"""In the environment of every process of a session: the session's id."""


def find(marks: Mapping[str, str]) -> Iterator[int]:
    """Ids of the processes, but for this one, whose environment carries all of `marks`."""
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        if wanted <= _environment(int(entry.name)):
            yield int(entry.name)


def kill(pid: int, marks: Mapping[str, str], number: int = signal.SIGKILL) -> bool:
    """Sends a signal to `pid` if its environment carries all of `marks`.

    The process is held by a descriptor while it is looked at, so the signal cannot hit another one
    that has got the same id since. Returns whether the signal was sent.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        wanted = {f"{name}={value}".encode() for name, value in marks.items()}
        if not wanted <= _environment(pid):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def sweep(marks: Mapping[str, str]) -> int:
    """Kills all processes that carry `marks`, and the ones that these start meanwhile.

    Ends when two looks in a row find nothing new: a process that is just becoming another program
    shows no environment for a moment. Returns how many were killed.
    """
    killed: set[int] = set()
    num_empty = 0
    while num_empty < 2:
        fresh = {pid for pid in find(marks) if pid not in killed}
        for pid in fresh:
            kill(pid, marks)
        killed |= fresh
        num_empty = 0 if fresh else num_empty + 1
    return len(killed)


def _environment(pid: int) -> set[bytes]:
    """The variables that a process was started with; empty if it is gone or another user's."""
    with contextlib.suppress(OSError):
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return set()
