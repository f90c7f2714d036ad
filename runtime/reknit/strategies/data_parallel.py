"""What strategies share whose gradients torch's DDP reduces along the data axis."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from reknit.comm.collectives import Collectives
from reknit.comm.group import RankGroup
from reknit.job import Loss
from reknit.layout import Precision
from reknit.mesh import Axis
from reknit.strategies.base import LossModule, OneByOne, averaging_factors
from reknit.trainer.timing import Stopwatch


class DataParallel(OneByOne):
    """FP32 weights; forward and backward under autocast if precision is lower.

    Those that make one set `model` and `optimizer`, call `_wrap`, and then `_join`.
    """

    _group: RankGroup
    _parallel: DistributedDataParallel | None = None

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

    def discard(self) -> None:
        """Drops the gradient, also that of parameters outside the optimizer."""
        self._loss_module.zero_grad(set_to_none=True)

    def complete(self, factor: float | None) -> None:
        """The same as `apply` or `discard`, which do not communicate, and so are not broken off."""
        if factor is None:
            self.discard()
        else:
            self.apply(factor)

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """On the bare model: DDP has no part in it."""
        result: torch.Tensor = self._loss_module(data, loss)
        return result

    def close(self) -> None:
        """Ends DDP, whose reducer has hooks on the parameters for as long as it lives."""
        if self._parallel is not None:
            del self._parallel.reducer, self._parallel.logger
            self._parallel = None

    def _wrap(self, loss: Loss, device: torch.device, precision: Precision) -> None:
        self._precision = precision
        self._loss_module = LossModule(self.model, loss, device, precision)
        # Never used in a forward. With one such DDP does not advise, from C++ and on every rank,
        # against looking for unused parameters.
        self._loss_module.unused = nn.Parameter(torch.zeros(1, device=device))

    def _join(self, group: RankGroup) -> None:
        """Takes part in a generation: another DDP around the same model."""
        self._group = group
        peers = group.along(Axis.DATA)
        self._factors = averaging_factors(peers.world_size, self._precision)
        self._parallel = self._parallelize(peers) if peers.world_size > 1 else None

    def _parallelize(self, peers: Collectives) -> DistributedDataParallel | None:
        """What reduces the gradient along the data axis in the last backward of a step."""
        return _parallel(self._loss_module, peers.device, peers.handle)

    def _rejoin(self, group: RankGroup) -> None:
        """Takes part in the next generation; what is left of a backward is dropped."""
        self.close()
        self.discard()
        self._join(group)


def _parallel(
    module: LossModule, device: torch.device, handle: torch.distributed.ProcessGroup
) -> DistributedDataParallel:
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=handle,
        init_sync=False,
        # Buffers are made equal once per step, for every strategy alike.
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        # Parameters may go unused in a step. Besides, this keeps the buckets as they are built:
        # otherwise DDP rearranges them after the first iteration of a process, and a resumed run
        # would add in another order than one that was never interrupted.
        find_unused_parameters=True,
    )
