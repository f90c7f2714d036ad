"""From sample numbers to what a model is fed: load, transform, collate."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reknit.job import Collate, Dataset, Transform


class DrawingStopped(Exception):  # noqa: N818 - no error: the loader was closed meanwhile
    """Raised between two samples once nobody wants them any more."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward and backward pass runs on."""

    index: int | None
    """Index within the global batch; None for a pass that only keeps the ranks in step."""
    data: Any
    """What the collate function made; of valid samples even when the weight is 0."""
    sample_ids: tuple[int, ...]
    """The samples that count for the result; empty when the weight is 0."""
    weight: float
    """Share of the samples of the global batch: the factor of this pass's mean loss."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How samples of `dataset` become micro-batches.

    `transform` gets a generator of its own, seeded per micro-batch; the global generators are left
    alone. `collate` defaults to torch's.
    """

    dataset: Dataset
    transform: Transform | None
    collate: Collate | None

    def draw(self, sample_ids: Sequence[int], seed: int, stopped: threading.Event) -> Any:
        """The collated samples, transformed in order with a generator seeded by `seed`.

        Raises:
            DrawingStopped: `stopped` was set before all samples were loaded.
        """
        generator = torch.Generator().manual_seed(seed)
        samples = []
        for sample_id in sample_ids:
            if stopped.is_set():
                raise DrawingStopped
            sample = self.dataset[sample_id]
            if self.transform is not None:
                sample = self.transform(sample, generator)
            samples.append(sample)
        if self.collate is not None:
            return self.collate(samples)
        # Imported late: torch.utils.data is slow to import, and not everybody needs it.
        from torch.utils.data import default_collate

        return default_collate(samples)
