"""Where DeepSpeed's ZeRO optimizers keep masters and optimizer state (deepspeed 0.19.8).

ZeRO 1 and 2: per parameter group one flat buffer, cut evenly; `single_partition_of_fp32_groups` has
this rank's part. ZeRO 3: each parameter is cut on its own; `fp32_partitioned_groups_flat` has this
rank's cuts of the parameters of a sub-group, one by one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reknit.layout import Sharding
from reknit.state.description import Interval, Piece, TensorSpec
from reknit.state.intervals import contiguous_partition, per_tensor_partition
from reknit.state.layout import Holder, StateLayout
from reknit.strategies.base import persistent_buffers


def names_of(model: nn.Module) -> dict[nn.Parameter, tuple[str, tuple[int, ...]]]:
    """Name and shape of each parameter; to be asked before DeepSpeed takes the tensors away."""
    return {
        parameter: (name, tuple(parameter.shape)) for name, parameter in model.named_parameters()
    }


def partitioned_layout(
    zero: Any,
    model: nn.Module,
    names: Mapping[nn.Parameter, tuple[str, tuple[int, ...]]],
    rank: int,
    num_ranks: int,
) -> StateLayout:
    """The layout under ZeRO 1 or 2."""
    holders = []
    for index, master in enumerate(zero.single_partition_of_fp32_groups):
        parameters = zero.round_robin_bit16_groups[index]
        sizes = [parameter.numel() for parameter in parameters]
        size = zero.partition_size[index]
        assert master.numel() == size and size * num_ranks >= sum(sizes)
        placed = contiguous_partition(
            zero.round_robin_bit16_offsets[index], sizes, Interval(rank * size, (rank + 1) * size)
        )
        own_names = tuple(names[parameter][0] for parameter in parameters)
        holders.append(Holder(master, own_names, tuple(placed)))
    trained = {name for holder in holders for name in holder.names}
    frozen = {
        f"param/{name}": parameter.detach()
        for parameter, (name, _) in names.items()
        if name not in trained
    }
    return StateLayout(
        optimizer=zero.optimizer,
        shapes={name: shape for name, shape in names.values() if name in trained},
        holders=tuple(holders),
        replicated=False,
        whole=frozen | _buffers(model),
    )


def sharded_layout(
    zero: Any,
    model: nn.Module,
    names: Mapping[nn.Parameter, tuple[str, tuple[int, ...]]],
    rank: int,
    num_ranks: int,
) -> StateLayout:
    """The layout under ZeRO 3."""
    holders = []
    for master, parameters in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        sizes = [parameter.ds_numel for parameter in parameters]
        assert master.numel() == sum(-(-size // num_ranks) for size in sizes)
        placed = per_tensor_partition(sizes, num_ranks, rank)
        own_names = tuple(names[parameter][0] for parameter in parameters)
        holders.append(Holder(master, own_names, tuple(placed)))
    trained = {name for holder in holders for name in holder.names}
    fixed: list[Piece] = []
    fixed_specs: dict[str, TensorSpec] = {}
    for parameter, (name, shape) in names.items():
        if name in trained:
            continue
        partition, size = _divided(parameter)
        fixed_specs[f"param/{name}"] = TensorSpec(shape, partition.dtype)
        for place in per_tensor_partition([size], num_ranks, rank):
            data = partition.detach().view(-1)[: len(place.interval)]
            fixed.append(Piece(f"param/{name}", place.interval, data))
    return StateLayout(
        optimizer=zero.optimizer,
        shapes={name: shape for name, shape in names.values() if name in trained},
        holders=tuple(holders),
        replicated=False,
        whole=_buffers(model),
        fixed=tuple(fixed),
        fixed_specs=fixed_specs,
    )


def refresh(zero: Any, sharding: Sharding) -> None:
    """Gives all ranks the weights that follow from the masters."""
    if sharding is not Sharding.ZERO3:
        zero.update_lp_params()
        return
    for index in range(len(zero.fp16_groups)):
        zero._reassign_or_swap_out_partitioned_parameters(index)  # noqa: SLF001 - as its own step
    if zero.persistent_parameters:
        zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def _divided(parameter: Any) -> tuple[torch.Tensor, int]:
    """This rank's part of a parameter under ZeRO 3, and the whole's number of elements."""
    return parameter.ds_tensor, parameter.ds_numel


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {f"buffer/{name}": buffer for name, buffer in persistent_buffers(model).items()}
