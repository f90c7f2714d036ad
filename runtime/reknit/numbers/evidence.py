"""What each micro-batch came to on this rank, taken before anything is reduced."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch.utils.hooks import RemovableHandle

from reknit.comm.group import RankGroup
from reknit.data.drawing import MicroBatch
from reknit.numbers.verdict import Reading
from reknit.strategies.base import Strategy


class Evidence:
    """Loss and length of the gradient of every micro-batch of this rank's newest step.

    Hooks on the parameters see each gradient before it is added to others, whoever reduces it
    afterwards and however.
    """

    def __init__(self) -> None:
        self.is_taken = True
        """Whether gradients are measured at all."""
        self._norms: list[torch.Tensor] = []
        self._passes: list[tuple[MicroBatch, torch.Tensor, list[torch.Tensor]]] = []
        self._handles: Sequence[RemovableHandle] = ()

    def watch(self, strategy: Strategy) -> None:
        """Measures the gradients of this strategy's model, and no other's any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = strategy.hook_gradients(self._measure)

    def begin(self) -> None:
        """A step, or a step anew."""
        self._norms, self._passes = [], []

    def end_pass(self, micro_batch: MicroBatch, loss: torch.Tensor) -> None:
        """Forward and backward of this micro-batch are done."""
        self._passes.append((micro_batch, loss, self._norms))
        self._norms = []

    def readings(self, rank: int, *, counts: bool = True) -> list[Reading]:
        """One for each micro-batch that counts.

        Args:
            rank: the place along the data axis that computes on them.
            counts: whether the losses are those of this rank, not of another one there.
        """
        return [
            Reading(
                rank,
                micro_batch.index,
                float(loss) if counts else 0.0,
                _norm(norms),
                micro_batch.sample_ids,
            )
            for micro_batch, loss, norms in self._passes
            if micro_batch.index is not None
        ]

    def _measure(self, gradient: torch.Tensor) -> None:
        if self.is_taken:
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            # A number of its own, not a sum: nothing here waits for a GPU.
            self._norms.append(torch.linalg.vector_norm(values.detach()))


def gather(readings: Iterable[Reading], group: RankGroup) -> tuple[Reading, ...]:
    """Those of all ranks, in the order of the ranks; all ranks together."""
    own = [
        [reading.rank, reading.micro_batch, reading.loss, reading.norm, list(reading.samples)]
        for reading in readings
    ]
    # Python's JSON has names for the numbers that are not finite.
    return tuple(
        Reading(rank, micro_batch, loss, norm, tuple(samples))
        for text in group.gather_texts(json.dumps(own))
        for rank, micro_batch, loss, norm, samples in json.loads(text)
    )


def joined(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """One reading for each micro-batch of those that ranks have of their parts of the model."""
    found: dict[tuple[int, int], Reading] = {}
    for reading in readings:
        known = found.setdefault((reading.rank, reading.micro_batch), reading)
        if known is not reading:
            found[reading.rank, reading.micro_batch] = replace(
                known,
                loss=known.loss + reading.loss,
                norm=math.hypot(known.norm, reading.norm),
            )
    return tuple(found.values())


def _norm(norms: list[torch.Tensor]) -> float:
    if not norms:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([norm.double() for norm in norms])))
