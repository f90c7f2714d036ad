"""One process, or data parallelism: every rank holds the whole model. torch's DDP does the work."""

import torch
from torch.nn.parallel import DistributedDataParallel

from reknit.comm.collectives import Collectives
from reknit.comm.compression import FORMATS, compress_buckets
from reknit.comm.group import RankGroup
from reknit.layout import Precision
from reknit.protocol.settings import Compression
from reknit.state.description import Interval, LocalState, StateSource
from reknit.state.intervals import Placed
from reknit.state.layout import Holder, StateLayout
from reknit.strategies.base import (
    Built,
    Recipe,
    build,
    gradient_norm,
    gradients_of,
    persistent_buffers,
    scale_gradients,
)
from reknit.strategies.data_parallel import DataParallel


class Replicated(DataParallel):
    """The whole model on every rank."""

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
        self._compression = compression
        self._wrap(recipe.loss, group.device, precision)
        self._join(group)

    def gradient_norm(self) -> torch.Tensor:
        """Of every so many tensors of the gradient, which is the same on all ranks."""
        own = list(gradients_of(self.optimizer))[self._group.rank :: self._group.world_size]
        return gradient_norm(own, self._group.device) * self._factors.after

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer."""
        scale_gradients(list(gradients_of(self.optimizer)), factor * self._factors.after)
        self.optimizer.step()
        self.discard()

    def describe(self) -> LocalState:
        """Every rank holds everything; the ranks divide the writing."""
        return self._layout().describe(self._group.rank, self._group.world_size)

    def install(self, source: StateSource) -> None:
        """Reads everything."""
        self._layout().install(source)

    def regroup(self, group: RankGroup) -> bool:
        """Goes on with the same model."""
        self._rejoin(group)
        return True

    @property
    def is_replicated(self) -> bool:
        """True."""
        return True

    def _parallelize(self, peers: Collectives) -> DistributedDataParallel | None:
        """DDP, which reduces in a lower format if that was asked for."""
        parallel = super()._parallelize(peers)
        if parallel is not None and self._compression in FORMATS:
            compress_buckets(parallel, FORMATS[self._compression], peers.world_size)
        return parallel

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
