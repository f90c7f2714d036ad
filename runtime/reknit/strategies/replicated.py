"""One process, or data parallelism: every rank holds the whole model. torch's DDP does the work."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from reknit.comm.compression import FORMATS, compress_buckets
from reknit.comm.group import RankGroup
from reknit.job import Loss
from reknit.layout import Precision
from reknit.protocol.settings import Compression
from reknit.state.description import Interval, LocalState, StateSource
from reknit.state.intervals import Placed
from reknit.state.layout import Holder, StateLayout
from reknit.strategies.base import (
    Built,
    LossModule,
    Recipe,
    Strategy,
    averaging_factors,
    build,
    gradient_norm,
    gradients_of,
    persistent_buffers,
    scale_gradients,
)
from reknit.trainer.timing import Stopwatch


class Replicated(Strategy):
    """Weights in FP32 on every rank, forward and backward under autocast if precision is lower."""

    def __init__(
        self,
        recipe: Recipe,
        group: RankGroup,
        *,
        seed: int,
        precision: Precision,
        compression: Compression = Compression.NONE,
        built: Built | None = None,
        installs: bool = False,
    ) -> None:
        built = built or build(recipe, seed=seed, device=group.device)
        if not installs:
            group.broadcast([*built.model.parameters(), *built.model.buffers()])
        self.model = built.model
        self.optimizer = built.optimizer
        self._precision = precision
        self._compression = compression
        self._loss_module = LossModule(built.model, recipe.loss, group.device, precision)
        # Never used in a forward. With one such DDP does not advise, from C++ and on every rank,
        # against looking for unused parameters.
        self._loss_module.unused = nn.Parameter(torch.zeros(1, device=group.device))
        self._parallel: DistributedDataParallel | None = None
        self._join(group)

    def micro_step(
        self, data: Any, factor: float, *, last: bool, stopwatch: Stopwatch
    ) -> torch.Tensor:
        """Forward and backward; DDP reduces during the last backward."""
        module = self._parallel or self._loss_module
        with self._parallel.no_sync() if self._parallel and not last else nullcontext():
            with stopwatch.phase("forward"):
                loss: torch.Tensor = module(data)
            with stopwatch.phase("backward"):
                torch.autograd.backward(loss * (factor * self._factors.before))
        return loss.detach()

    def gradient_norm(self) -> torch.Tensor:
        """Of every so many tensors of the gradient, which is the same on all ranks."""
        own = list(gradients_of(self.optimizer))[self._group.rank :: self._group.world_size]
        return gradient_norm(own, self._group.device) * self._factors.after

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer."""
        scale_gradients(list(gradients_of(self.optimizer)), factor * self._factors.after)
        self.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Drops the gradient, also that of parameters outside the optimizer."""
        self._loss_module.zero_grad(set_to_none=True)

    def complete(self, factor: float | None) -> None:
        """The same as `apply` or `discard`, which do not communicate, and so are not broken off."""
        if factor is None:
            self.discard()
        else:
            self.apply(factor)

    def describe(self) -> LocalState:
        """Every rank holds everything; the ranks divide the writing."""
        return self._layout().describe(self._group.rank, self._group.world_size)

    def install(self, source: StateSource) -> None:
        """Reads everything."""
        self._layout().install(source)

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """On the bare model: DDP has no part in it."""
        result: torch.Tensor = self._loss_module(data, loss)
        return result

    def regroup(self, group: RankGroup) -> bool:
        """Another DDP around the same model; what is left of a backward is dropped."""
        self.close()
        self.discard()
        self._join(group)
        return True

    def close(self) -> None:
        """Ends DDP, whose reducer has hooks on the parameters for as long as it lives."""
        if self._parallel is not None:
            del self._parallel.reducer, self._parallel.logger
            self._parallel = None

    @property
    def is_replicated(self) -> bool:
        """True."""
        return True

    def _join(self, group: RankGroup) -> None:
        self._group = group
        self._factors = averaging_factors(group.world_size, self._precision)
        if group.world_size > 1:
            self._wrap(group)

    def _wrap(self, group: RankGroup) -> None:
        """DDP around the model; it reduces, in a lower format if that was asked for."""
        self._parallel = _parallel(self._loss_module, group.device)
        if self._compression in FORMATS:
            compress_buckets(self._parallel, FORMATS[self._compression], group.world_size)

    def _layout(self) -> StateLayout:
        updated = {
            id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]
        }
        named = dict(self.model.named_parameters())
        holders = tuple(
            Holder(parameter, (name,), (Placed(0, Interval(0, parameter.numel()), 0),))
            for name, parameter in named.items()
            if id(parameter) in updated
        )
        frozen = {
            f"param/{name}": parameter.detach()
            for name, parameter in named.items()
            if id(parameter) not in updated
        }
        buffers = persistent_buffers(self.model)
        return StateLayout(
            optimizer=self.optimizer,
            shapes={holder.names[0]: tuple(holder.tensor.shape) for holder in holders},
            holders=holders,
            replicated=True,
            whole=frozen | {f"buffer/{name}": buffer for name, buffer in buffers.items()},
        )


def _parallel(module: LossModule, device: torch.device) -> DistributedDataParallel:
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        init_sync=False,
        # Buffers are made equal once per step, for every strategy alike.
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        # Parameters may go unused in a step. Besides, this keeps the buckets as they are built:
        # otherwise DDP rearranges them after the first iteration of a process, and a resumed run
        # would add in another order than one that was never interrupted.
        find_unused_parameters=True,
    )
