"""The world layout: which rank holds which share of the work.

Everything here is a pure function of the manifest and the world size. The operator, `reknit plan`
and the ranks all ask this module, so they cannot disagree.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import prod


class Sharding(StrEnum):
    """What the data-parallel ranks divide among themselves instead of each holding a copy."""

    NONE = "None"
    ZERO1 = "ZeRO1"
    ZERO2 = "ZeRO2"
    ZERO3 = "ZeRO3"
    FSDP = "FSDP"

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's number of this choice; 0 is not DeepSpeed's."""
        return {Sharding.ZERO1: 1, Sharding.ZERO2: 2, Sharding.ZERO3: 3}.get(self, 0)

    @property
    def is_sharded(self) -> bool:
        """Whether the ranks divide anything."""
        return self is not Sharding.NONE

    @property
    def divides_weights(self) -> bool:
        """Whether a rank has only a part of the weights between two passes."""
        return self in (Sharding.ZERO3, Sharding.FSDP)


class Precision(StrEnum):
    """The number format of forward and backward; the optimizer always works in FP32."""

    FP32 = "FP32"
    BF16 = "BF16"
    FP16 = "FP16"


class PipelineSchedule(StrEnum):
    """In which order the ranks of a pipeline compute their micro-batches."""

    GPIPE = "GPipe"
    ONE_F_ONE_B = "OneForwardOneBackward"
    """Known as 1F1B."""
    INTERLEAVED = "Interleaved"


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many ways each axis of parallelism divides the world; -1 stands for the rest."""

    data: int = -1
    pipeline: int = 1
    tensor: int = 1
    shard_group: int | None = None
    """Data-parallel ranks that divide a copy of the state among them; None: all of them."""

    def resolve(self, world_size: int) -> "Degrees":
        """The degrees with -1 replaced, so that their product is `world_size`.

        Raises:
            ValueError: the degrees cannot multiply to the world size, more than one is -1, or the
                data-parallel ranks do not make whole shard groups.
        """
        degrees = {"data": self.data, "pipeline": self.pipeline, "tensor": self.tensor}
        open_axes = [axis for axis, degree in degrees.items() if degree == -1]
        if len(open_axes) > 1:
            raise ValueError(f"only one degree may be -1, not {' and '.join(open_axes)}")
        known = prod(degree for degree in degrees.values() if degree != -1)
        if open_axes and world_size % known == 0:
            degrees[open_axes[0]] = world_size // known
        if prod(degrees.values()) != world_size:
            equation = " x ".join(f"{axis} {degree}" for axis, degree in degrees.items())
            raise ValueError(f"{equation} does not multiply to the world of {world_size} ranks")
        if self.shard_group is not None and degrees["data"] % self.shard_group:
            raise ValueError(
                f"{degrees['data']} data-parallel ranks do not make groups of {self.shard_group}"
            )
        return Degrees(**degrees, shard_group=self.shard_group)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How a global batch of samples falls into micro-batches and on to data-parallel ranks.

    A global batch is cut into `num_micro_batches` micro-batches of `micro` samples. Each rank takes
    a contiguous run of them; every rank runs `num_steps` forward and backward passes, so ranks at
    the end may run passes of weight 0.

    Raises:
        ValueError: the micro-batch does not divide the global batch, or a size is below 1.
    """

    global_batch: int
    micro: int
    num_ranks: int

    def __post_init__(self) -> None:
        if min(self.global_batch, self.micro, self.num_ranks) < 1:
            raise ValueError("batch sizes and the number of ranks must be at least 1")
        if self.global_batch % self.micro:
            raise ValueError(
                f"the global batch of {self.global_batch} samples is no multiple of the "
                f"micro-batch of {self.micro}"
            )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches in one global batch, over all ranks."""
        return self.global_batch // self.micro

    @property
    def num_steps(self) -> int:
        """Forward and backward passes of each rank per global batch: gradient accumulation."""
        return -(-self.num_micro_batches // self.num_ranks)

    def micro_batches(self, rank: int) -> tuple[int | None, ...]:
        """Indices of the micro-batches of `rank`, `num_steps` long; None is a pass of weight 0.

        The remainder is spread so that no rank has more than one pass less than another.
        """
        base, extra = divmod(self.num_micro_batches, self.num_ranks)
        start = rank * base + min(rank, extra)
        own = base + (1 if rank < extra else 0)
        indices: list[int | None] = list(range(start, start + own))
        return tuple(indices + [None] * (self.num_steps - own))

    def positions(self, step: int, micro_batch: int) -> range:
        """Positions in the endless data order of one micro-batch of global batch `step`."""
        start = step * self.global_batch + micro_batch * self.micro
        return range(start, start + self.micro)
