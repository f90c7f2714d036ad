"""The reduced gradient within DeepSpeed's ZeRO optimizers: how it is taken and dropped.

DeepSpeed's own step asks all ranks for overflows and norms, which the gate knows already, and
updates one group after the other between collectives. Reknit's update is one step of the user's
optimizer without any communication, after which the weights are gathered.
"""

from typing import Any, Final

import torch

from reknit.layout import Sharding

_FIRST_MICRO_STEP: Final = -1
"""DeepSpeed's `INITIAL_MICRO_STEP_ID` of ZeRO 1 and 2."""


def take(zero: Any, sharding: Sharding) -> tuple[torch.Tensor, ...]:
    """The reduced gradient of each of this rank's masters, flat; the padding in it is zero."""
    if sharding is Sharding.ZERO3:
        sizes = [master.numel() for master in zero.fp32_partitioned_groups_flat]
        return torch.split(zero.grad_partitions_flat_buffer, sizes)
    flats = []
    for index, master in enumerate(zero.single_partition_of_fp32_groups):
        pieces = zero.averaged_gradients[index]
        # With FP32 masters beside lower weights the pieces are views of one tensor.
        flat = getattr(pieces, "flat_partition", None)
        if flat is None:
            flat = zero.flatten(pieces)
            zero.averaged_gradients[index] = None
        assert flat.shape == master.shape and flat.dtype == master.dtype
        flats.append(flat)
    return tuple(flats)


def drop(zero: Any, sharding: Sharding) -> None:
    """Makes DeepSpeed ready for the gradient of the next step."""
    for index in zero.averaged_gradients:
        zero.averaged_gradients[index] = None
    if sharding is Sharding.ZERO3:
        zero._pre_step()  # noqa: SLF001 - as its own step
        # Else a parameter that goes unused in the next step is updated with this gradient.
        zero.grad_partitions_flat_buffer.zero_()
    else:
        zero.micro_step_id = _FIRST_MICRO_STEP
        for index in zero.all_grad_tensors:
            zero.all_grad_tensors[index] = None
    zero.zero_grad(set_to_none=True)
