"""Which losses are survived: the layout's answer against what the survivors really hold."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.layout import Sharding
from reknit.mesh import Mesh
from reknit.state.intervals import even_intervals
from reknit.state.oracle import (
    survivable_nodes,
    survivable_ranks,
    survives,
    unsurvivable_pairs,
)
from reknit.state.placement import wards
from reknit.state.transfer import Holding, missing

ZERO = (Sharding.ZERO1, Sharding.ZERO2, Sharding.ZERO3)


def shares(sharding, nodes):
    return Mesh(num_data=len(nodes)).shares(sharding)


TWO_BY_TWO = ["a", "a", "b", "b"]
ONE_EACH = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("sharding", "nodes", "copies", "lost", "survived"),
    [
        (Sharding.NONE, ONE_EACH, 0, {0, 1, 2}, True),
        (Sharding.NONE, ONE_EACH, 2, {0, 1, 2, 3}, False),
        (Sharding.NONE, ["a"], 1, {0}, False),
        (Sharding.ZERO1, ONE_EACH, 0, set(), True),
        (Sharding.ZERO1, ONE_EACH, 0, {2}, False),
        (Sharding.ZERO2, ONE_EACH, 1, {2}, True),
        (Sharding.ZERO2, ONE_EACH, 1, {1, 2}, False),
        (Sharding.ZERO2, ONE_EACH, 1, {3, 0}, False),
        (Sharding.ZERO3, ONE_EACH, 1, {0, 2}, True),
        (Sharding.ZERO3, ONE_EACH, 2, {1, 2}, True),
        (Sharding.ZERO3, ONE_EACH, 2, {1, 2, 3}, False),
        (Sharding.ZERO3, TWO_BY_TWO, 1, {0, 1}, True),
        (Sharding.ZERO3, TWO_BY_TWO, 1, {0, 2}, False),
        (Sharding.ZERO3, TWO_BY_TWO, 2, {0, 2}, True),
        (Sharding.ZERO3, TWO_BY_TWO, 2, {0, 1}, True),
        (Sharding.ZERO3, TWO_BY_TWO, 2, {0, 2, 3}, False),
    ],
)
def test_table(sharding, nodes, copies, lost, survived):
    assert survives(shares(sharding, nodes), nodes, copies, lost) is survived


@pytest.mark.parametrize(
    ("nodes", "copies", "pairs"),
    [
        (ONE_EACH, 1, {(0, 1), (1, 2), (2, 3), (0, 3)}),
        (ONE_EACH, 2, set()),
        (TWO_BY_TWO, 1, {(0, 2), (1, 3)}),
        (["a", "a", "a"], 1, {(0, 1), (1, 2), (0, 2)}),
        (["a", "b"], 0, {(0, 1)}),
    ],
)
def test_what_is_not_survived_is_listed(nodes, copies, pairs):
    for sharding in ZERO:
        assert unsurvivable_pairs(shares(sharding, nodes), nodes, copies) == pairs


def test_a_large_world_is_answered_at_once():
    nodes = [f"n{rank // 8}" for rank in range(65536)]
    assert survivable_ranks(shares(Sharding.ZERO3, nodes), nodes, 2) == 2
    assert survivable_nodes(shares(Sharding.ZERO3, nodes), nodes, 2) == 2
    assert len(unsurvivable_pairs(shares(Sharding.ZERO3, nodes), nodes, 1)) == len(nodes)


# Two stages, each on two data-parallel ranks: 0 and 1 hold the first, 2 and 3 the second.
@pytest.mark.parametrize(
    ("nodes", "copies", "lost", "survived"),
    [
        (["a", "b", "a", "b"], 0, {0}, True),
        (["a", "b", "a", "b"], 0, {0, 2}, True),
        (["a", "b", "a", "b"], 0, {0, 3}, True),
        (["a", "b", "a", "b"], 1, {0, 1}, False),
        (TWO_BY_TWO, 0, {0}, True),
        (TWO_BY_TWO, 0, {0, 1}, False),
        # Replicas on one node are lost together, so that copies are kept on the other.
        (TWO_BY_TWO, 1, {0, 1}, True),
        (TWO_BY_TWO, 1, {0, 1, 2}, True),
        (TWO_BY_TWO, 1, {0, 1, 2, 3}, False),
        (["a"] * 4, 1, {0, 1}, False),
        (["a"] * 4, 1, {0, 2}, True),
    ],
)
def test_stages_come_from_their_replicas_or_from_copies(nodes, copies, lost, survived):
    stages = Mesh(num_data=2, num_stages=2).shares(Sharding.NONE)
    assert survives(stages, nodes, copies, lost) is survived


@pytest.mark.parametrize(("copies", "ranks", "pods"), [(0, 0, 0), (1, 1, 1), (2, 2, 2)])
def test_a_stage_without_replicas_needs_copies(copies, ranks, pods):
    stages = Mesh(num_stages=4).shares(Sharding.NONE)
    assert survivable_ranks(stages, ONE_EACH, copies) == ranks
    assert survivable_nodes(stages, ONE_EACH, copies) == pods


def holdings(sharding, nodes, copies, lost):
    """What the survivors hold of two tensors."""
    sizes = {"param/a": 53, "optimizer/exp_avg/a": 53}
    world = range(len(nodes))
    parts = {name: list(even_intervals(size, len(nodes))) for name, size in sizes.items()}
    found = []
    for rank in set(world) - lost:
        kept = world if sharding is Sharding.NONE else [rank, *wards(rank, nodes, copies)]
        for shard in kept:
            share = {name: [cuts[shard]] for name, cuts in parts.items()}
            found.append(Holding(rank, f"of {shard}", share))
    return sizes, found


WORLDS = st.tuples(
    st.sampled_from(Sharding),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=8),
    st.integers(0, 2),
)


@given(WORLDS, st.data())
def test_the_oracle_says_what_the_survivors_hold(world, data):
    sharding, nodes, copies = world
    lost = data.draw(st.sets(st.sampled_from(range(len(nodes)))))
    sizes, held = holdings(sharding, nodes, copies, lost)
    assert survives(shares(sharding, nodes), nodes, copies, lost) is (missing(sizes, held) is None)


@given(WORLDS)
def test_summaries_agree_with_trying_all_losses(world):
    sharding, nodes, copies = world
    ranks = range(len(nodes))

    def safe(groups, size):
        return all(
            survives(
                shares(sharding, nodes), nodes, copies, {rank for group in chosen for rank in group}
            )
            for chosen in combinations(groups, size)
        )

    by_node = {node: [rank for rank in ranks if nodes[rank] == node] for node in set(nodes)}
    for found, groups in (
        (survivable_ranks(shares(sharding, nodes), nodes, copies), [[rank] for rank in ranks]),
        (survivable_nodes(shares(sharding, nodes), nodes, copies), list(by_node.values())),
    ):
        assert found < len(groups)
        assert all(safe(groups, size) for size in range(found + 1))
        assert not safe(groups, found + 1)
    assert unsurvivable_pairs(shares(sharding, nodes), nodes, copies) == {
        pair
        for pair in combinations(ranks, 2)
        if not survives(shares(sharding, nodes), nodes, copies, pair)
    }
