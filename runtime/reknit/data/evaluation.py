"""Held-out data of one rank: each sample once, in order, over all ranks."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from reknit.data.drawing import Drawing, DrawingStopped, MicroBatch
from reknit.data.prefetch import Prefetcher
from reknit.data.seeds import derive_seed
from reknit.errors import ConfigurationError
from reknit.job import Collate, Dataset, Transform
from reknit.layout import BatchPlan


class EvaluationLoader(Prefetcher[MicroBatch]):
    """Iterates a rank's micro-batches of the first `limit` samples of `dataset`, loaded ahead.

    Every rank gets the same number of micro-batches, so that forward passes may communicate; the
    last one of the data may be short. Summed over all ranks, weight times mean loss is the mean
    over the samples. Transforms draw the same numbers in every evaluation.

    Raises:
        ConfigurationError: there is no sample to evaluate on.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        micro: int,
        rank: int,
        num_ranks: int,
        seed: int,
        transform: Transform | None = None,
        collate: Collate | None = None,
        limit: int | None = None,
        prefetch: int = 2,
    ) -> None:
        num_samples = len(dataset) if limit is None else min(limit, len(dataset))
        if num_samples < 1:
            raise ConfigurationError("there is no sample to evaluate on")
        num_micro_batches = -(-num_samples // micro)
        plan = BatchPlan(global_batch=num_micro_batches, micro=1, num_ranks=num_ranks)
        source = _Source(Drawing(dataset, transform, collate), num_samples, micro, seed)
        super().__init__(
            partial(source.micro_batches, plan.micro_batches(rank)),
            depth=prefetch,
            name="reknit-evaluation",
        )
        self.num_passes = plan.num_steps
        """Forward passes of each rank."""


@dataclass(frozen=True, slots=True)
class _Source:
    drawing: Drawing
    num_samples: int
    micro: int
    seed: int

    def micro_batches(
        self, indices: tuple[int | None, ...], stopped: threading.Event
    ) -> Iterator[MicroBatch]:
        # As in training, a pass of weight 0 runs on valid samples.
        filler = next((index for index in indices if index is not None), 0)
        for index in indices:
            drawn = filler if index is None else index
            start = drawn * self.micro
            sample_ids = tuple(range(start, min(start + self.micro, self.num_samples)))
            seed = derive_seed("evaluation", self.seed, drawn)
            try:
                data = self.drawing.draw(sample_ids, seed, stopped)
            except DrawingStopped:
                return
            if index is None:
                yield MicroBatch(None, data, (), 0.0)
            else:
                yield MicroBatch(index, data, sample_ids, len(sample_ids) / self.num_samples)
