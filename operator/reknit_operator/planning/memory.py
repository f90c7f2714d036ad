"""Memory of one rank by part, for every way of sharding, as torch and DeepSpeed implement them.

The formulas count what lives at the same time at the peak of a step. Names: `n` trainable
elements, `s` the share of one of the data-parallel ranks, `b` bytes of a weight in forward and
backward, `k` optimizer tensors per parameter. FP32 state takes 4 bytes an element.

| sharding | parameters | gradients | optimizer | temporary |
|---|---|---|---|---|
| None | 4 n | 4 n | 4 k n | 8 of the largest parameter |
| ZeRO1 | b n | 4 n + 4 s | (4 + 4 k) s | 8 s, or 4 of the bucket |
| ZeRO2 | b n | 4 s | (4 + 4 k) s | 8 s, or 4 of the bucket |
| ZeRO3 | b s + b of those gathered | 8 s | 4 k s, with 4 s unless b is 4 | as above |
| FSDP | 4 s + b of the units gathered | 8 s + 4 of two units | 4 k s | 8 s |

ZeRO 1 and 2 keep FP32 master weights of their share even beside FP32 weights; ZeRO 3 only beside
lower ones. It gathers parameters up to a limit and, unless the model is larger, keeps them from
forward to backward. FSDP's weights are their own masters; gathered are what belongs to no unit, and
two units: the one that computes, and the next. Under either a share is one flat tensor, so the
optimizer's intermediate values (two for Adam) have its size; before that, ZeRO's buckets of
gradients take as much or more.

A copy of another rank's share is FP32 weights, the optimizer's tensors, and a gradient that waits
for the gate: (8 + 4 k) s. Under ZeRO 3 it has the frozen weights of that share, too. Without
sharding there are no copies, unless layers are cut and a part has no replica: then (8 + 4 k) n.

Where layers are cut, `n` counts of each parameter that is divided one rank's part. Under hybrid
sharding `s` is the share of a shard group's rank.

Measured for 24 layers of 1024 x 1024 on two CPU ranks with Adam, bytes per parameter, resident:
None 17.7 for 16.0 computed, ZeRO2 16.0 for 16.0, ZeRO2 in BF16 14.2 for 14.0, ZeRO3 18.2 for 18.0,
ZeRO3 in BF16 15.3 for 17.0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ConfigDict, computed_field

from reknit.layout import Precision, Sharding
from reknit.protocol.base import Json, Message
from reknit.protocol.inspection import Inspection, ParameterInfo

DEEPSPEED_BUCKET: Final = 500_000_000
DEEPSPEED_GATHERED: Final = 1_000_000_000
"""Elements, where nothing else is said."""

FP32_BYTES: Final = 4
"""Bytes of an element."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Elements of a model."""

    trainable: int
    frozen: int
    largest: int
    """Elements of the largest trainable parameter."""
    buffer_bytes: int
    gathered: int = 0
    """Elements that FSDP gathers at a time."""

    @classmethod
    def of(cls, inspection: Inspection, num_tensor: int = 1) -> "ModelSize":
        """The sizes that a dry run has found, of one of the ranks that divide layers."""
        trained = [p for p in inspection.parameters if p.group is not None]
        frozen = [p for p in inspection.parameters if p.group is None]
        return cls(
            trainable=sum(_part(p, num_tensor) for p in trained),
            frozen=sum(_part(p, num_tensor) for p in frozen),
            largest=max((_part(p, num_tensor) for p in trained), default=0),
            buffer_bytes=sum(_num_elements(p) * _item_bytes(p.dtype) for p in inspection.buffers),
            gathered=_gathered(trained),
        )


@dataclass(frozen=True, slots=True)
class ZeroLimits:
    """What bounds DeepSpeed's temporary memory, in elements."""

    bucket: int
    """Gradients that are reduced together."""
    gathered: int = 0
    """Parameters that ZeRO 3 holds gathered at a time."""

    @classmethod
    def of(cls, zero: Mapping[str, Json]) -> "ZeroLimits":
        """From the section `zero_optimization` that DeepSpeed is given."""
        gathered = zero.get("stage3_max_live_parameters", zero.get("max_live_parameters"))
        return cls(
            bucket=_count(zero.get("reduce_bucket_size"), DEEPSPEED_BUCKET),
            gathered=_count(gathered, DEEPSPEED_GATHERED),
        )


class Memory(Message):
    """Bytes of one rank, without the interpreter and its libraries."""

    # The total is written, and computed again where it is read.
    model_config = ConfigDict(extra="ignore")

    parameters: int
    """Weights that forward and backward use, and buffers."""
    gradients: int
    optimizer: int
    """The optimizer's tensors, and FP32 master weights where there are any."""
    activations: int | None
    """An estimate of what one micro-batch keeps for backward; None when it is not known."""
    temporary: int
    """Buckets while gradients are reduced, or the optimizer's intermediate values."""
    copies: int
    """Other ranks' shares: FP32 weights, the optimizer's tensors, and a gradient."""
    checkpoint: int
    """The copy that is written in the background."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """All parts that are known."""
        state = self.parameters + self.gradients + self.optimizer
        known = state + (self.activations or 0)
        return known + self.temporary + self.copies + self.checkpoint


def memory_per_rank(
    size: ModelSize,
    sharding: Sharding,
    precision: Precision,
    *,
    num_ranks: int,
    optimizer_tensors: int,
    activations: int | None = None,
    copies: int = 0,
    checkpoints: bool = False,
    limits: ZeroLimits,
) -> Memory:
    """The largest share of any rank of `num_ranks` data-parallel ones.

    Of each share `copies` are kept by others, or as many as there are others.
    """
    if sharding is Sharding.FSDP:
        return _fully_sharded(
            size,
            precision,
            num_ranks=num_ranks,
            optimizer_tensors=optimizer_tensors,
            activations=activations,
            copies=min(copies, num_ranks - 1),
            checkpoints=checkpoints,
        )
    stage = sharding.zero_stage
    # Without ZeRO, autocast keeps the weights in FP32; its casts count as activations.
    weight = FP32_BYTES if stage == 0 or precision is Precision.FP32 else 2
    share = -(-size.trainable // num_ranks)
    state = FP32_BYTES * (1 + optimizer_tensors)
    return Memory(
        parameters=_parameters(size, stage, weight, num_ranks, limits) + size.buffer_bytes,
        gradients=FP32_BYTES * _gradient_elements(size, stage, share),
        optimizer=_optimizer(size, stage, share, weight, optimizer_tensors),
        activations=activations,
        temporary=FP32_BYTES * _temporary_elements(size, stage, share, limits),
        copies=min(copies, num_ranks - 1)
        * _copy(size, stage, share, weight, optimizer_tensors, num_ranks),
        # Each element is written by one rank.
        checkpoint=state * share if checkpoints else 0,
    )


def _fully_sharded(
    size: ModelSize,
    precision: Precision,
    *,
    num_ranks: int,
    optimizer_tensors: int,
    activations: int | None,
    copies: int,
    checkpoints: bool,
) -> Memory:
    weight = FP32_BYTES if precision is Precision.FP32 else 2
    share = -(-size.trainable // num_ranks)
    state = FP32_BYTES * (1 + optimizer_tensors)
    return Memory(
        parameters=FP32_BYTES * (share + size.frozen) + weight * size.gathered + size.buffer_bytes,
        gradients=FP32_BYTES * (2 * share + size.gathered),
        optimizer=FP32_BYTES * optimizer_tensors * share,
        activations=activations,
        temporary=FP32_BYTES * 2 * share,
        copies=copies * (state + FP32_BYTES) * share,
        checkpoint=state * share if checkpoints else 0,
    )


def _gathered(trained: Sequence[ParameterInfo]) -> int:
    """Elements of two units and of what belongs to none; a name's first number tells its unit."""
    sizes: dict[str, int] = {}
    for parameter in trained:
        parts = parameter.name.split(".")
        number = next((i for i, part in enumerate(parts[:-1]) if part.isdecimal()), None)
        unit = "" if number is None else ".".join(parts[: number + 1])
        sizes[unit] = sizes.get(unit, 0) + _num_elements(parameter)
    alone = sizes.pop("", 0)
    return alone + sum(sorted(sizes.values())[-2:])


def _parameters(
    size: ModelSize, stage: int, weight: int, num_ranks: int, limits: ZeroLimits
) -> int:
    elements = size.trainable + size.frozen
    if stage < 3:
        return weight * elements
    gathered = min(elements, limits.gathered) if num_ranks > 1 else 0
    return weight * (-(-elements // num_ranks) + gathered)


def _gradient_elements(size: ModelSize, stage: int, share: int) -> int:
    match stage:
        case 0:
            return size.trainable
        case 1:
            return size.trainable + share
        case 2:
            return share
        case _:
            # Accumulated, and once more as the flat gradient that the optimizer gets.
            return 2 * share


def _temporary_elements(size: ModelSize, stage: int, share: int, limits: ZeroLimits) -> int:
    if stage == 0:
        return 2 * size.largest
    return max(min(size.trainable, limits.bucket), 2 * share)


def _optimizer(size: ModelSize, stage: int, share: int, weight: int, tensors: int) -> int:
    if stage == 0:
        return FP32_BYTES * tensors * size.trainable
    has_master = stage < 3 or weight != FP32_BYTES
    return FP32_BYTES * (tensors + (1 if has_master else 0)) * share


def _copy(
    size: ModelSize, stage: int, share: int, weight: int, tensors: int, num_ranks: int
) -> int:
    if stage == 0:
        return 0
    frozen = weight * -(-size.frozen // num_ranks) if stage == 3 else 0
    return FP32_BYTES * (1 + tensors + 1) * share + frozen


def parked_memory(inspection: Inspection) -> int:
    """Bytes of a pod's parked process, without the interpreter: the model as the user builds it."""
    tensors = (*inspection.parameters, *inspection.buffers)
    return sum(_num_elements(tensor) * _item_bytes(tensor.dtype) for tensor in tensors)


def copy_of_whole(size: ModelSize, optimizer_tensors: int) -> int:
    """Bytes of a copy of everything that a rank updates, with a gradient that waits."""
    return FP32_BYTES * (1 + optimizer_tensors + 1) * size.trainable


def _part(parameter: ParameterInfo, num_tensor: int) -> int:
    """Elements on each rank that has a part of the layers."""
    return _num_elements(parameter) // (num_tensor if parameter.divided else 1)


def _num_elements(parameter: ParameterInfo) -> int:
    elements = 1
    for side in parameter.shape:
        elements *= side
    return elements


def _item_bytes(dtype: str) -> int:
    """Bytes of an element, from the name of its type, which ends in its bits."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdecimal())
    if dtype.startswith("complex"):
        return int(digits) // 8
    return int(digits) // 8 if digits else 1


def _count(value: Json, default: int) -> int:
    return int(value) if isinstance(value, int | float) else default
