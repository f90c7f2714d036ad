"""Data parallelism under PowerSGD: every rank holds the model, and its own memory of what was lost.

That memory is part of the version, so that checkpoints and recovery carry it on. To copy a rank's
after each step would take more than compression saves. So a rank that is lost with it begins with
an empty one, and training goes on with other bits than without the loss.
"""

from collections.abc import Mapping
from typing import Any

import torch

from reknit.comm.collectives import Collectives
from reknit.comm.group import RankGroup
from reknit.layout import Precision
from reknit.state.description import LocalState, StateSource, TensorSpec, share
from reknit.state.remembered import pieces
from reknit.state.round_protection import worker_prefix
from reknit.strategies.base import Built, Recipe
from reknit.strategies.power_sgd import Memory, first_memory, reduce
from reknit.strategies.replicated import Replicated
from reknit.trainer.timing import Stopwatch

_USED = "/used"
"""The name that no parameter has."""


class LowRank(Replicated):
    """Reduces by itself after the last backward of a step, instead of DDP."""

    def __init__(
        self,
        recipe: Recipe,
        group: RankGroup,
        *,
        columns: int,
        seed: int,
        precision: Precision,
        built: Built | None = None,
        installs: bool = False,
    ) -> None:
        super().__init__(
            recipe, group, seed=seed, precision=precision, built=built, installs=installs
        )
        self._trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        shapes = {name: tuple(parameter.shape) for name, parameter in self._trained.items()}
        self._memory = first_memory(shapes, columns, seed, group.device)
        self._next: Memory | None = None
        """What the memory becomes when the step is committed."""

    def micro_step(
        self, data: Any, factor: float, *, last: bool, stopwatch: Stopwatch
    ) -> torch.Tensor:
        """Forward and backward; after the last one the gradient is that of all ranks."""
        loss = super().micro_step(data, factor, last=last, stopwatch=stopwatch)
        if last and self._group.world_size > 1:
            with stopwatch.phase("communication"):
                self._reduce()
        return loss

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer; the memory goes with it."""
        kept = self._next or self._memory
        super().apply(factor)
        self._memory = kept

    def discard(self) -> None:
        """Drops the gradient; the memory stays that of the committed version."""
        super().discard()
        self._next = None

    def describe(self) -> LocalState:
        """Beside what all ranks hold, what this one's compression has left out."""
        state = super().describe()
        rank, num_ranks = self._group.rank, self._group.world_size
        own = pieces(f"{worker_prefix(rank)}left_out/", self._memory.left_out)
        common = pieces("compression/columns/", self._memory.columns)
        specs = dict(state.specs) | _specs("compression/columns/", self._memory.columns)
        for other in range(num_ranks):
            specs |= _specs(f"{worker_prefix(other)}left_out/", self._memory.left_out)
        return LocalState(
            specs,
            [*state.pieces, *common, *own],
            [*state.written, *share(common, num_ranks, rank), *own],
            state.scalars,
            replaceable="worker/",
        )

    def install(self, source: StateSource) -> None:
        """Reads everything; a memory that the state does not have, or not so, begins empty."""
        super().install(source)
        prefix = f"{worker_prefix(self._group.rank)}left_out/"
        for left_out in self._memory.left_out.values():
            left_out.zero_()
        for piece in (
            *pieces(prefix, self._memory.left_out),
            *pieces("compression/columns/", self._memory.columns),
        ):
            spec = source.specs.get(piece.name)
            if spec is not None and spec.num_elements == len(piece.interval):
                piece.data.copy_(source.read(piece.name, piece.interval))
        self._next = None

    def _parallelize(self, peers: Collectives) -> None:
        """No DDP."""

    def _reduce(self) -> None:
        gradients = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in self._trained.items()
        }
        used = [float(parameter.grad is not None) for parameter in self._trained.values()]
        gradients[_USED] = torch.tensor(used, device=self._group.device)
        with torch.no_grad():
            means, memory = reduce(gradients, self._memory, self._group)
        left_out, columns = dict(memory.left_out), dict(memory.columns)
        for (name, parameter), share_used in zip(
            self._trained.items(), means[_USED].tolist(), strict=True
        ):
            parameter.grad = means[name]
            if not share_used:
                # No rank has used it: it is left alone, and so is what is to be made up for.
                parameter.grad = None
                if name in left_out:
                    left_out[name] = self._memory.left_out[name]
                    columns[name] = self._memory.columns[name]
        self._next = Memory(left_out, columns)


def _specs(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {prefix + name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}
