"""Whether the kernel has killed a process of this pod for memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

RECENT_SECONDS: Final = 2.0
"""The end of a process is known much sooner than this after the kernel has killed it."""


def find_counter(cgroups: str, root: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """The file with this process' count of such kills; None where there is none.

    Args:
        cgroups: the text of /proc/self/cgroup.
        root: where the hierarchies are mounted. In a container the pod's own group is mounted
            there, whatever its path is called outside.
    """
    return next((path for path in _candidates(cgroups, root) if path.is_file()), None)


def _candidates(cgroups: str, root: Path) -> Iterable[Path]:
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        for folder in (path.strip("/"), ""):
            if controllers == "":
                yield root / folder / "memory.events"
            elif "memory" in controllers.split(","):
                yield root / "memory" / folder / "memory.oom_control"


def num_kills(text: str) -> int:
    """The count in memory.events, or in memory.oom_control of older kernels."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


class MemoryWatch:
    """Remembers when the count last rose."""

    def __init__(self, counter: Path | None) -> None:
        self._counter = counter
        self._last = self._read()
        self._rose_at: float | None = None

    def is_recent(self, now: float) -> bool:
        """Whether the kernel has killed for memory just now; to be asked with every heartbeat."""
        count = self._read()
        if count > self._last:
            self._rose_at = now
        self._last = count
        return self._rose_at is not None and now - self._rose_at <= RECENT_SECONDS

    def _read(self) -> int:
        try:
            return num_kills(self._counter.read_text()) if self._counter is not None else 0
        except OSError:
            return 0


def this_pods_watch() -> MemoryWatch:
    """The watch of the group that this process runs in."""
    try:
        cgroups = Path("/proc/self/cgroup").read_text()
    except OSError:
        cgroups = ""
    return MemoryWatch(find_counter(cgroups))
