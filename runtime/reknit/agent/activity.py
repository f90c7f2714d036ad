"""Whether processes are at work, by what the kernel says of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_AT_WORK: Final = frozenset("RD")
"""Running or ready to, and waiting for a disk. A stopped process is T."""


class Activity:
    """Remembers how much processor time each process had used."""

    def __init__(self) -> None:
        self._used: dict[int, int] = {}

    def at_work(self, pids: Mapping[int, int]) -> frozenset[int]:
        """The keys of the processes that run, wait for a disk, or ran since the last call."""
        found = {key: reading for key, pid in pids.items() if (reading := _read(pid))}
        at_work = frozenset(
            key
            for key, (state, used) in found.items()
            if state in _AT_WORK or used > self._used.get(key, used)
        )
        self._used = {key: used for key, (_, used) in found.items()}
        return at_work


def _read(pid: int) -> tuple[str, int] | None:
    """State, and processor time of all threads in clock ticks; None when the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name between the parentheses may contain anything. See proc_pid_stat(5).
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[11]) + int(fields[12])
