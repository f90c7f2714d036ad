"""Finds and ends processes by what stands in their environment; needs only the standard library."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

PATIENCE: Final = timedelta(seconds=5)
"""A process that hangs in the kernel may take long to go; it is not waited for any longer."""

ENV_SESSION: Final = "REKNIT_SESSION"
"""In the environment of every process of a session: the session's id."""

_NUM_LOOKS: Final = 4
_PAUSE: Final = timedelta(milliseconds=3)
"""Between two looks at a process without an environment."""


def find(marks: Mapping[str, str]) -> Iterator[int]:
    """Ids of the processes, but for this one, whose environment carries all of `marks`.

    A process that is just becoming another program shows no environment for a moment; those that
    show none are looked at again.
    """
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    names = (entry.name for entry in Path("/proc").iterdir())
    left = [int(name) for name in names if name.isdigit() and int(name) != os.getpid()]
    for look in range(_NUM_LOOKS):
        if look and left:
            time.sleep(_PAUSE.total_seconds())
        blank = []
        for pid in left:
            environment = _environment(pid)
            if wanted <= environment:
                yield pid
            elif not environment and _is_program(pid):
                blank.append(pid)
        left = blank


def kill(pid: int, marks: Mapping[str, str], number: int = signal.SIGKILL) -> bool:
    """Sends a signal to `pid` if its environment carries all of `marks`.

    Returns whether the signal was sent.
    """
    descriptor = _send(pid, marks, number)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def sweep(marks: Mapping[str, str]) -> int:
    """Kills all processes that carry `marks`, and the ones that these start meanwhile.

    Waits until they have ended, but no longer than `PATIENCE` for those of one look. Returns how
    many were killed.
    """
    killed: set[int] = set()
    while fresh := {pid for pid in find(marks) if pid not in killed}:
        sent = [_send(pid, marks, signal.SIGKILL) for pid in fresh]
        _wait([descriptor for descriptor in sent if descriptor is not None])
        killed |= fresh
    return len(killed)


def _send(pid: int, marks: Mapping[str, str], number: int) -> int | None:
    """Sends a signal to a process that carries `marks`; returns an open descriptor of it.

    The process is held by the descriptor while it is looked at, so the signal cannot hit another
    one that has got the same id since.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    with contextlib.suppress(OSError):
        if wanted <= _environment(pid):
            signal.pidfd_send_signal(descriptor, number)
            return descriptor
    os.close(descriptor)
    return None


def _wait(descriptors: list[int]) -> None:
    """Waits until the processes have ended, and closes their descriptors."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left, deadline = set(descriptors), time.monotonic() + PATIENCE.total_seconds()
    while left and time.monotonic() < deadline:
        for descriptor, _ in poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            poll.unregister(descriptor)
            left.discard(descriptor)
    for descriptor in descriptors:
        os.close(descriptor)


def _environment(pid: int) -> set[bytes]:
    """The variables that a process was started with; empty if it is gone or another user's."""
    with contextlib.suppress(OSError):
        return {line for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if line}
    return set()


def _is_program(pid: int) -> bool:
    """Whether a process of this user runs a program: neither the kernel's nor ended."""
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/exe").readlink())
    return False
