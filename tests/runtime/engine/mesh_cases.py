"""What ranks do with the groups along the axes of their mesh, called by the tests' workers."""

import torch
from engine_cases import Case

from reknit.comm.group import RankGroup
from reknit.mesh import Axis


def ranks_along(group: RankGroup, _case: Case) -> dict[Axis, list[int]]:
    """For each axis the ranks that one hears of there, by three collectives that must agree."""
    return {axis: _heard(group, axis) for axis in Axis}


def _heard(group: RankGroup, axis: Axis) -> list[int]:
    along = group.along(axis)
    heard: list[int] = along.gather(torch.tensor(group.rank)).tolist()
    assert heard[along.rank] == group.rank
    assert int(along.all_reduce(torch.tensor(group.rank))) == sum(heard)
    for source, expected in enumerate(heard):
        told = torch.tensor([float(group.rank)])
        along.broadcast([told], source)
        assert told.item() == expected
    return heard
