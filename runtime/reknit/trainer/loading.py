"""The samples of the steps that a loop goes through, on whatever rank this is meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Self

from reknit.data.loader import StepBatch
from reknit.data.prefetch import Prefetcher
from reknit.layout import BatchPlan


class Drawer:
    """Draws each step's samples in turn, and the same ones again when a step is taken anew.

    Args:
        load: makes a loader for a rank's share of the steps from the given one on.
    """

    def __init__(self, load: Callable[[BatchPlan, int, int], Prefetcher[StepBatch]]) -> None:
        self._load = load
        self._loader: Prefetcher[StepBatch] | None = None
        self._share: tuple[BatchPlan, int] | None = None
        """Which rank's part the loader loads."""
        self._next = 0
        self._last: StepBatch | None = None

    def draw(self, step: int, plan: BatchPlan, rank: int) -> tuple[StepBatch, float]:
        """This rank's samples of `step`, and the seconds that they were waited for."""
        if self._share != (plan, rank):
            self._last = None
        if self._last is not None and self._last.step == step:
            return self._last, 0.0
        if self._loader is None or self._share != (plan, rank) or self._next != step:
            self._drop()
            self._loader, self._share = self._load(plan, rank, step), (plan, rank)
        before = self._loader.wait_seconds
        self._last = next(self._loader)
        self._next = step + 1
        return self._last, self._loader.wait_seconds - before

    @contextmanager
    def open(self) -> Iterator[Self]:
        """Ends the loading at the end."""
        try:
            yield self
        finally:
            if self._loader is not None:
                self._loader.close()

    def _drop(self) -> None:
        if self._loader is not None:
            # It is not waited for: a sample that takes long holds up no recovery.
            self._loader.close(timedelta(0))
            self._loader = None
