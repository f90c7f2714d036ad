"""Where ranks stand along the axes of parallelism."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.layout import Degrees, Sharding
from reknit.mesh import Axis, Coordinates, Mesh, replicas

meshes = st.builds(Mesh, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
grouped = st.builds(
    lambda groups, stages, tensor, size: Mesh(groups * size, stages, tensor, size),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
)


@pytest.mark.parametrize(
    ("rank", "place"),
    [
        (0, Coordinates(data=0, stage=0, tensor=0)),
        (1, Coordinates(data=0, stage=0, tensor=1)),
        (2, Coordinates(data=1, stage=0, tensor=0)),
        (6, Coordinates(data=0, stage=1, tensor=0)),
        (11, Coordinates(data=2, stage=1, tensor=1)),
    ],
)
def test_tensor_is_innermost_and_pipeline_outermost(rank, place) -> None:
    mesh = Mesh.of(Degrees(data=-1, pipeline=2, tensor=2), 12)
    assert mesh == Mesh(num_data=3, num_stages=2, num_tensor=2)
    assert mesh.coordinates(rank) == place
    assert mesh.rank(place) == rank


def test_degrees_that_do_not_fit_the_world_are_refused() -> None:
    with pytest.raises(ValueError, match="does not multiply to the world of 5 ranks"):
        Mesh.of(Degrees(pipeline=2), 5)
    with pytest.raises(ValueError, match="at least one place"):
        Mesh(num_data=0)
    with pytest.raises(ValueError, match="evenly"):
        Mesh(num_data=6, shard_group=4)


@given(meshes)
def test_ranks_and_places_are_the_same_thing(mesh: Mesh) -> None:
    places = [mesh.coordinates(rank) for rank in range(mesh.world_size)]
    assert len(set(places)) == mesh.world_size
    assert [mesh.rank(place) for place in places] == list(range(mesh.world_size))


@given(meshes, st.sampled_from([Axis.DATA, Axis.PIPELINE, Axis.TENSOR]))
def test_each_axis_divides_the_world_into_groups(mesh: Mesh, axis: Axis) -> None:
    groups = {mesh.along(axis, rank) for rank in range(mesh.world_size)}
    assert sorted(rank for group in groups for rank in group) == list(range(mesh.world_size))
    name = {Axis.DATA: "data", Axis.PIPELINE: "stage", Axis.TENSOR: "tensor"}[axis]
    for group in groups:
        assert len(group) == mesh.degree(axis)
        places = [mesh.coordinates(rank) for rank in group]
        assert [getattr(place, name) for place in places] == list(range(mesh.degree(axis)))
        others = {
            tuple(getattr(place, other) for other in ("data", "stage", "tensor") if other != name)
            for place in places
        }
        assert len(others) == 1


@given(meshes)
def test_one_rank_speaks_for_each_place_along_the_data_axis(mesh: Mesh) -> None:
    speakers = [rank for rank in range(mesh.world_size) if mesh.speaks(rank)]
    assert [mesh.coordinates(rank).data for rank in speakers] == list(range(mesh.num_data))
    assert all(mesh.coordinates(rank).stage == mesh.num_stages - 1 for rank in speakers)
    together = [mesh.with_data(data) for data in range(mesh.num_data)]
    assert sorted(rank for ranks in together for rank in ranks) == list(range(mesh.world_size))


@given(meshes)
def test_replicas_are_the_ranks_along_the_data_axis(mesh: Mesh) -> None:
    whole = replicas(mesh.shares(Sharding.NONE))
    assert list(whole) == [mesh.along(Axis.DATA, rank) for rank in range(mesh.world_size)]
    for sharding in set(Sharding) - {Sharding.NONE}:
        assert replicas(mesh.shares(sharding)) == tuple((r,) for r in range(mesh.world_size))


@given(grouped)
def test_shard_groups_hold_all_shares_and_replicas_the_same(mesh: Mesh) -> None:
    shares = mesh.shares(Sharding.FSDP)
    for rank in range(mesh.world_size):
        group, same = mesh.along(Axis.SHARD, rank), mesh.along(Axis.REPLICA, rank)
        assert len({shares[other] for other in group}) == len(group) == mesh.num_shards
        assert {shares[other] for other in same} == {shares[rank]}
        assert set(group) | set(same) <= set(mesh.along(Axis.DATA, rank))
        assert len(group) * len(same) == mesh.num_data
        # Ranks that divide the state, which talk most, are neighbours along the data axis.
        places = [mesh.coordinates(other).data for other in group]
        assert places == list(range(places[0], places[0] + len(group)))
    assert replicas(shares) == tuple(mesh.along(Axis.REPLICA, r) for r in range(mesh.world_size))
    assert replicas(mesh.shares(Sharding.NONE))[0] == mesh.along(Axis.DATA, 0)
