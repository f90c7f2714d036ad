"""Where each rank stands along the axes of parallelism, and with whom. Pure, without torch.

Neighbours along the tensor axis, which talk most, have consecutive ranks; then comes the data axis
and, with the least to say, the pipeline axis:

    rank = (stage * num_data + data) * num_tensor + tensor

Hybrid sharding divides the data axis in two: places that divide the state follow each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from reknit.layout import Degrees, Sharding


class Axis(StrEnum):
    """A way to divide the work."""

    DATA = "data"
    PIPELINE = "pipeline"
    TENSOR = "tensor"
    SHARD = "shard"
    """Within the data axis: the ranks that divide one copy of the state among them."""
    REPLICA = "replica"
    """Within the data axis: the ranks that hold the same of it."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """One rank's place along each axis."""

    data: int
    stage: int
    tensor: int


@dataclass(frozen=True, slots=True)
class Mesh:
    """All ranks of a world, by the degrees of its axes.

    Raises:
        ValueError: a degree is below 1.
    """

    num_data: int = 1
    """Ways to divide the global batch."""
    num_stages: int = 1
    num_tensor: int = 1
    shard_group: int | None = None
    """Places along the data axis that divide a copy of the state, if sharding does; None: all."""

    def __post_init__(self) -> None:
        if min(self.num_data, self.num_stages, self.num_tensor, self.num_shards) < 1:
            raise ValueError("each axis has at least one place")
        if self.num_data % self.num_shards:
            raise ValueError("shard groups divide the data axis evenly")

    @classmethod
    def of(cls, degrees: Degrees, world_size: int) -> "Mesh":
        """The mesh of a world.

        Raises:
            ValueError: the degrees do not multiply to the world's size.
        """
        known = degrees.resolve(world_size)
        return cls(known.data, known.pipeline, known.tensor, known.shard_group)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.num_data * self.num_stages * self.num_tensor

    @property
    def num_shards(self) -> int:
        """Parts of a copy of the state that is divided along the data axis."""
        return self.num_data if self.shard_group is None else self.shard_group

    def degree(self, axis: Axis) -> int:
        """Places along an axis."""
        return {
            Axis.DATA: self.num_data,
            Axis.PIPELINE: self.num_stages,
            Axis.TENSOR: self.num_tensor,
            Axis.SHARD: self.num_shards,
            Axis.REPLICA: self.num_data // self.num_shards,
        }[axis]

    def coordinates(self, rank: int) -> Coordinates:
        """The place of a rank."""
        rest, tensor = divmod(rank, self.num_tensor)
        stage, data = divmod(rest, self.num_data)
        return Coordinates(data, stage, tensor)

    def rank(self, place: Coordinates) -> int:
        """The rank at a place."""
        return (place.stage * self.num_data + place.data) * self.num_tensor + place.tensor

    def along(self, axis: Axis, rank: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` along this axis alone, with itself, in order."""
        place = self.coordinates(rank)
        strides = {
            Axis.TENSOR: (place.tensor, 1),
            Axis.DATA: (place.data, self.num_tensor),
            Axis.PIPELINE: (place.stage, self.num_tensor * self.num_data),
            Axis.SHARD: (place.data % self.num_shards, self.num_tensor),
            Axis.REPLICA: (place.data // self.num_shards, self.num_tensor * self.num_shards),
        }
        own, stride = strides[axis]
        return tuple(rank + (index - own) * stride for index in range(self.degree(axis)))

    def with_data(self, data: int) -> tuple[int, ...]:
        """The ranks that compute on the same micro-batches together."""
        return tuple(rank for rank in range(self.world_size) if self.coordinates(rank).data == data)

    def speaks(self, rank: int) -> bool:
        """Whether this rank alone counts for all that compute on the same micro-batches.

        It has their losses: it is the first along the tensor axis, of the last stage.
        """
        place = self.coordinates(rank)
        return place.stage == self.num_stages - 1 and place.tensor == 0

    def shares(self, sharding: Sharding) -> tuple[int, ...]:
        """What each rank holds of the state, as a number; ranks with the same one hold the same.

        Stages and parts of layers are different shares. Sharding divides among the data-parallel
        ranks of a shard group, else they hold the same.
        """
        num_shards = self.num_shards if sharding.is_sharded else 1
        return tuple(
            (place.stage * num_shards + place.data % num_shards) * self.num_tensor + place.tensor
            for place in map(self.coordinates, range(self.world_size))
        )


def replicas(shares: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """For each rank all that hold the same share, itself among them."""
    holders: dict[int, list[int]] = {}
    for rank, share in enumerate(shares):
        holders.setdefault(share, []).append(rank)
    return tuple(tuple(holders[share]) for share in shares)
