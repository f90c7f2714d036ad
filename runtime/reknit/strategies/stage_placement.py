"""Which rank of a pipeline holds which parameters, and where in its masters they lie."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from reknit.mesh import Mesh
from reknit.state.intervals import Interval, Placed


@dataclass(frozen=True, slots=True)
class StageMaster:
    """A flat master on each rank, for one of the optimizer's parameter groups.

    A rank's master has the group's parameters of its own stages, whole, one after the other. All
    have the size of the largest: so a copy of any rank's fits on any other rank.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    holders: tuple[tuple[int, ...], ...]
    """For each parameter the places along the pipeline that hold it: several if layers share it."""
    mesh: Mesh

    @property
    def size(self) -> int:
        """Elements of each master."""
        return max(self._used(stage) for stage in range(self.mesh.num_stages))

    def placed(self, size: int, num_ranks: int, rank: int) -> Iterator[Placed]:
        """What lies in the master of `rank`, which has `size` elements."""
        assert (size, num_ranks) == (self.size, self.mesh.world_size)
        offset = 0
        stage = self.mesh.coordinates(rank).stage
        for index, (shape, holders) in enumerate(zip(self.shapes, self.holders, strict=True)):
            if stage in holders:
                yield Placed(index, Interval(0, prod(shape)), offset)
                offset += prod(shape)

    def _used(self, stage: int) -> int:
        return sum(
            prod(shape)
            for shape, holders in zip(self.shapes, self.holders, strict=True)
            if stage in holders
        )


def ranks_of(stages: Mapping[str, tuple[int, ...]], num_ranks: int) -> dict[str, tuple[int, ...]]:
    """For each parameter the places along the pipeline whose stages use it, in their order."""
    return {
        name: tuple(dict.fromkeys(stage % num_ranks for stage in used))
        for name, used in stages.items()
    }
