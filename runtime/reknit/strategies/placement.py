"""Where the state of a divided model lies, whoever has divided it."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

from torch import nn

from reknit.comm.group import RankGroup
from reknit.state.description import LocalState, Piece, TensorSpec
from reknit.state.intervals import Placed, per_tensor_partition
from reknit.state.layout import Holder, Replica, StateLayout
from reknit.state.shard import Shard
from reknit.strategies.base import Built, Recipe, Sharded, persistent_buffers


class Divided(Protocol):
    """The counterparts of one master on all ranks: how they divide the parameters in them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        ...

    def placed(self, size: int, num_ranks: int, rank: int) -> Iterator[Placed]:
        """What lies in the master of `rank`, which has `size` elements."""
        ...


@dataclass(frozen=True, eq=False)
class Placement:
    """What of the model lies where on which rank; it outlives the engine that it was read from."""

    model: nn.Module
    num_ranks: int
    """Those that divide one copy of the state; the next as many have the next copy."""
    masters: tuple[Divided, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """All parameters, in the model's order."""
    divides_frozen: bool
    num_replicas: int = 1
    """Copies of the state."""

    def layout(self, shard: Shard) -> StateLayout:
        """Where the state lies in a shard."""
        index, part = divmod(shard.rank, self.num_ranks)
        replica = Replica(index, self.num_replicas)
        holders = tuple(
            Holder(
                tensor,
                master.names,
                tuple(master.placed(tensor.numel(), self.num_ranks, part)),
                replica,
            )
            for tensor, master in zip(shard.masters, self.masters, strict=True)
        )
        trained = {name for master in self.masters for name in master.names}
        frozen = {name: shape for name, shape in self.shapes.items() if name not in trained}
        whole = {f"buffer/{name}": data for name, data in persistent_buffers(self.model).items()}
        fixed: list[Piece] = []
        fixed_specs: dict[str, TensorSpec] = {}
        if self.divides_frozen:
            for partition, (name, shape) in zip(shard.frozen, frozen.items(), strict=True):
                fixed_specs[f"param/{name}"] = TensorSpec(shape, partition.dtype)
                for place in per_tensor_partition([prod(shape)], self.num_ranks, part):
                    data = partition.detach().view(-1)[: len(place.interval)]
                    fixed.append(Piece(f"param/{name}", place.interval, data))
        else:
            parameters = dict(self.model.named_parameters())
            whole = {f"param/{name}": parameters[name].detach() for name in frozen} | whole
        return StateLayout(
            optimizer=shard.optimizer,
            shapes={name: shape for name, shape in self.shapes.items() if name in trained},
            holders=holders,
            replicated=False,
            whole=whole,
            fixed=tuple(fixed),
            fixed_specs=fixed_specs,
            fixed_replica=replica,
        )


class Partitioned(Sharded):
    """What strategies that cut a model into masters have in common.

    They set `_built`, `_recipe`, `_group` and `_placement`, and have `_due` say whether there is a
    reduced gradient that was neither applied nor dropped.
    """

    _built: Built
    _recipe: Recipe
    _group: RankGroup
    _placement: Placement
    _due: bool

    def complete(self, factor: float | None) -> None:
        """The optimizer's step, if `apply` has not got to it."""
        if self._due and factor is not None:
            self._update(factor)

    def describe(self) -> LocalState:
        """FP32 masters and optimizer state of this rank; buffers."""
        return self.layout_of(self.shard).describe(self._group.rank, self._group.world_size)

    def layout_of(self, shard: Shard) -> StateLayout:
        """As the placement says."""
        return self._placement.layout(shard)

    def parts(self) -> Built:
        """The optimizer is made by its factory: what it was given has been changed."""
        parameters = self._built.parameters
        return Built(self.model, self._recipe.optimizer(list(parameters)), parameters)

    @abstractmethod
    def _update(self, factor: float) -> None:
        """Masters and optimizer state of the next version, without communication."""


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parameters' shapes; to be asked before a strategy takes the tensors away."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
