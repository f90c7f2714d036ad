"""Where the time of a step goes, and how much memory the process has needed."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by phase of one step.

    Args:
        entering: is told the name of each phase as it begins.
    """

    def __init__(self, entering: Callable[[str], None] = lambda _: None) -> None:
        self._entering = entering
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._total: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `name`."""
        self._entering(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Adds time that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if self._total is not None:
            self._total += seconds

    def stop(self) -> None:
        """Ends the step; only phases that are measured later still count."""
        self._total = time.perf_counter() - self._start

    def split(self) -> dict[str, float]:
        """Seconds by phase so far, and `total` of the step."""
        total = time.perf_counter() - self._start if self._total is None else self._total
        return {**self._seconds, "total": total}


def peak_memory_bytes() -> int:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
