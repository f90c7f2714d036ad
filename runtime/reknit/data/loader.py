"""The training data of one rank: its micro-batches of each global batch, loaded ahead."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from reknit.data.drawing import Drawing, DrawingStopped, MicroBatch
from reknit.data.order import DataOrder
from reknit.data.prefetch import Prefetcher
from reknit.data.seeds import micro_batch_seed
from reknit.job import Collate, Dataset, Transform
from reknit.layout import BatchPlan

__all__ = ["MicroBatch", "StepBatch", "StepLoader"]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One rank's share of a global batch."""

    step: int
    """Steps committed before this one."""
    micro_batches: tuple[MicroBatch, ...]
    """`BatchPlan.num_steps` of them on every rank."""

    @property
    def sample_ids(self) -> tuple[int, ...]:
        """The samples that this rank contributes."""
        return tuple(
            sample_id for micro_batch in self.micro_batches for sample_id in micro_batch.sample_ids
        )


class StepLoader(Prefetcher[StepBatch]):
    """Iterates a rank's `StepBatch`es of the steps from `start_step` up to before `stop_step`.

    A thread loads `prefetch` steps ahead. What it makes is a function of the arguments alone: the
    samples by `order`, transforms by a generator seeded by job seed, step and micro-batch. A data
    set or transform that draws from a global generator instead gives that up, and shares it with
    the thread that trains.

    Exceptions of the data set, the transform and the collate function are raised by `next`, in the
    step that they belong to.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        order: DataOrder,
        plan: BatchPlan,
        rank: int,
        seed: int,
        transform: Transform | None = None,
        collate: Collate | None = None,
        start_step: int,
        stop_step: int,
        prefetch: int = 2,
    ) -> None:
        source = _Source(Drawing(dataset, transform, collate), order, plan, rank, seed)
        super().__init__(
            partial(source.batches, range(start_step, stop_step)),
            depth=prefetch,
            name="reknit-loader",
        )


@dataclass(frozen=True, slots=True)
class _Source:
    drawing: Drawing
    order: DataOrder
    plan: BatchPlan
    rank: int
    seed: int

    def batches(self, steps: range, stopped: threading.Event) -> Iterator[StepBatch]:
        for step in steps:
            try:
                yield self._batch(step, stopped)
            except DrawingStopped:
                return

    def _batch(self, step: int, stopped: threading.Event) -> StepBatch:
        indices = self.plan.micro_batches(self.rank)
        weight = self.plan.micro / self.plan.global_batch
        # A pass of weight 0 runs on samples of this rank, or of the first micro-batch if it has
        # none: they have the right shape, and are in the page cache anyway.
        filler = next((index for index in indices if index is not None), 0)
        micro_batches = []
        for index in indices:
            drawn = filler if index is None else index
            sample_ids = tuple(self.order.samples(self.plan.positions(step, drawn)))
            seed = micro_batch_seed(self.seed, step, drawn, "transform")
            data = self.drawing.draw(sample_ids, seed, stopped)
            micro_batches.append(
                MicroBatch(None, data, (), 0.0)
                if index is None
                else MicroBatch(index, data, sample_ids, weight)
            )
        return StepBatch(step, tuple(micro_batches))
