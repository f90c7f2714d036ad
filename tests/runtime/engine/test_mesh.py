"""The groups along the axes of a mesh, in real processes."""

import pytest
from engine_cases import Case

from reknit.layout import Degrees
from reknit.mesh import Axis, Mesh


@pytest.mark.parametrize(
    "degrees",
    [
        Degrees(data=4),
        Degrees(data=2, pipeline=2),
        Degrees(pipeline=2, tensor=2, data=1),
        Degrees(shard_group=2),
    ],
)
def test_ranks_talk_along_each_axis(run_ranks, degrees) -> None:
    found = run_ranks("ranks_along", 4, Case(num_ranks=4, degrees=degrees))
    mesh = Mesh.of(degrees, 4)
    expected = [{axis: list(mesh.along(axis, rank)) for axis in Axis} for rank in range(4)]
    assert found == expected
