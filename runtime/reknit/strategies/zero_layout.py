"""Where DeepSpeed's ZeRO optimizers keep masters and optimizer state (deepspeed 0.19.8).

ZeRO 1 and 2: per parameter group one flat buffer, cut evenly; `single_partition_of_fp32_groups` has
this rank's part. ZeRO 3: each parameter is cut on its own; `fp32_partitioned_groups_flat` has this
rank's cuts of the parameters of a sub-group, one by one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from reknit.layout import Sharding
from reknit.state.description import Interval
from reknit.state.intervals import Placed, contiguous_partition, per_tensor_partition
from reknit.state.shard import Shard
from reknit.strategies.placement import Placement


@dataclass(frozen=True, slots=True)
class Master:
    """The counterparts of one master on all ranks: how they divide the parameters in them."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """The parameters' numbers of elements."""
    offsets: tuple[int, ...] | None
    """Where they begin in the flat buffer of ZeRO 1 and 2, whose parts are of equal size; None
    where each parameter is cut on its own."""

    def placed(self, size: int, num_ranks: int, rank: int) -> Iterator[Placed]:
        """What lies in the master of `rank`, which has `size` elements."""
        if self.offsets is None:
            assert size == sum(-(-numel // num_ranks) for numel in self.sizes)
            return per_tensor_partition(self.sizes, num_ranks, rank)
        assert size * num_ranks >= sum(self.sizes)
        partition = Interval(rank * size, (rank + 1) * size)
        return contiguous_partition(self.offsets, self.sizes, partition)


def placement_of(
    zero: Any,
    model: nn.Module,
    sharding: Sharding,
    shapes: Mapping[str, tuple[int, ...]],
    num_ranks: int,
) -> Placement:
    """Reads from DeepSpeed how it has divided the parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    divided = sharding is Sharding.ZERO3
    groups = zero.fp16_groups if divided else zero.round_robin_bit16_groups
    masters = []
    for index, group in enumerate(groups):
        own = tuple(names[id(parameter)] for parameter in group)
        sizes = tuple(prod(shapes[name]) for name in own)
        offsets = None if divided else tuple(zero.round_robin_bit16_offsets[index])
        masters.append(Master(own, sizes, offsets))
    return Placement(model, num_ranks, tuple(masters), shapes, divided)


def own_shard(
    zero: Any, optimizer: torch.optim.Optimizer, model: nn.Module, sharding: Sharding, rank: int
) -> Shard:
    """This rank's shard, in DeepSpeed's own tensors.

    ZeRO 3 leaves the optimizer's parameter groups empty but for the moment of the update. They are
    filled for good here. And an Adagrad is the user's own again, which DeepSpeed replaces by one
    with other hyperparameters, as that is where its state begins.
    """
    optimizer.state = zero.optimizer.state
    zero.optimizer = optimizer
    if sharding is not Sharding.ZERO3:
        masters = tuple(zero.single_partition_of_fp32_groups)
        for group, master in zip(optimizer.param_groups, masters, strict=True):
            group["params"] = [master]
        return Shard(rank, masters, optimizer)
    masters = tuple(zero.fp32_partitioned_groups_flat)
    for group in optimizer.param_groups:
        group["params"] = []
    for index, master in enumerate(masters):
        optimizer.param_groups[zero.sub_group_to_group_id[index]]["params"].append(master)
    trained = {id(parameter) for group in zero.fp16_groups for parameter in group}
    untrained: list[Any] = [
        parameter for parameter in model.parameters() if id(parameter) not in trained
    ]
    return Shard(rank, masters, optimizer, tuple(parameter.ds_tensor for parameter in untrained))


def refresh(zero: Any, sharding: Sharding) -> None:
    """Gives all ranks the weights that follow from the masters."""
    if sharding is not Sharding.ZERO3:
        zero.update_lp_params()
        return
    zero._partition_all_parameters()  # noqa: SLF001 - as its own step
    for index in range(len(zero.fp16_groups)):
        zero._reassign_or_swap_out_partitioned_parameters(index)  # noqa: SLF001 - as its own step
    if zero.persistent_parameters:
        zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
