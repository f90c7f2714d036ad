"""Where copies are kept: never beside the original, and the same work for everyone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.state.placement import copies_needed, failure_domains, holders, wards


def layout(*sizes: int) -> list[str]:
    """The nodes of the ranks of a world with nodes of these sizes."""
    return [f"n{node}" for node, size in enumerate(sizes) for _ in range(size)]


def everyone(nodes, copies):
    return [holders(rank, nodes, copies) for rank in range(len(nodes))]


@pytest.mark.parametrize(
    ("shares", "domains", "needed"),
    [
        ([0, 0, 0, 0], layout(2, 2), False),
        ([0, 0, 0, 0], layout(4), False),
        ([0, 1, 2, 3], layout(2, 2), True),
        ([0], layout(1), True),
        # Replicas of each share on one node, and on two.
        ([0, 0, 1, 1], layout(2, 2), True),
        ([0, 1, 0, 1], layout(2, 2), False),
        ([0, 0, 1, 1], layout(4), False),
        ([0, 0, 1, 2], layout(4), True),
    ],
)
def test_copies_are_needed_where_all_replicas_may_be_lost_at_once(shares, domains, needed):
    assert copies_needed(shares, domains, 2) == (2 if needed else 0)


@pytest.mark.parametrize(
    ("nodes", "copies", "expected"),
    [
        (layout(1), 2, [()]),
        (layout(1, 1), 1, [(1,), (0,)]),
        (layout(1, 1), 2, [(1,), (0,)]),
        (layout(1, 1, 1), 1, [(1,), (2,), (0,)]),
        (layout(1, 1, 1), 2, [(1, 2), (2, 0), (0, 1)]),
        (layout(4), 1, [(1,), (2,), (3,), (0,)]),
        (layout(2, 2), 1, [(2,), (3,), (0,), (1,)]),
        (layout(2, 2), 2, [(2, 3), (3, 2), (0, 1), (1, 0)]),
        (layout(2, 2, 2), 1, [(2,), (3,), (4,), (5,), (0,), (1,)]),
        (layout(2, 2, 2), 2, [(2, 4), (3, 5), (4, 0), (5, 1), (0, 2), (1, 3)]),
        (layout(2, 1), 1, [(2,), (2,), (0,)]),
        (["x", "y", "x", "y"], 1, [(1,), (0,), (3,), (2,)]),
        (layout(2, 2), 0, [(), (), (), ()]),
    ],
)
def test_table(nodes, copies, expected):
    assert everyone(nodes, copies) == expected


NODES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=24)
COPIES = st.integers(0, 2)


@given(NODES, COPIES)
def test_copies_are_never_with_the_original_nor_together_if_it_can_be(nodes, copies):
    distinct = set(nodes)
    for rank, found in enumerate(everyone(nodes, copies)):
        assert len(found) == min(copies, len(nodes) - 1)
        assert len({rank, *found}) == len(found) + 1
        elsewhere = [other for other in found if nodes[other] != nodes[rank]]
        num_elsewhere = sum(node != nodes[rank] for node in nodes)
        assert len(elsewhere) == min(len(found), num_elsewhere)
        used = {nodes[other] for other in elsewhere}
        assert len(used) == min(len(elsewhere), len(distinct) - 1)


@given(st.integers(1, 8), st.integers(1, 8), COPIES, st.randoms(use_true_random=False))
def test_on_equal_nodes_every_rank_keeps_as_many(num_nodes, size, copies, random):
    nodes = layout(*[size] * num_nodes)
    random.shuffle(nodes)
    expected = min(copies, len(nodes) - 1)
    assert all(len(wards(rank, nodes, copies)) == expected for rank in range(len(nodes)))


@given(NODES)
def test_a_single_copy_is_spread_as_evenly_as_nodes_allow(nodes):
    sizes = Counter(nodes)
    largest = max(sizes.values())
    elsewhere = len(nodes) - largest
    duties = [len(wards(rank, nodes, 1)) for rank in range(len(nodes))]
    if len(nodes) == 1:
        assert duties == [0]
    elif not elsewhere or largest <= elsewhere:
        assert set(duties) == {1}
    else:
        # The shards of the largest node are too many for the others to keep one each.
        crowded = max(sizes, key=lambda node: sizes[node])
        few = {duty for duty, node in zip(duties, nodes, strict=True) if node != crowded}
        assert few <= {largest // elsewhere, -(-largest // elsewhere)}
        assert max(duty for duty, node in zip(duties, nodes, strict=True) if node == crowded) == 1


@given(NODES, COPIES)
def test_wards_are_the_inverse_of_holders(nodes, copies):
    pairs = {(rank, holder) for rank, h in enumerate(everyone(nodes, copies)) for holder in h}
    inverse = {(ward, rank) for rank in range(len(nodes)) for ward in wards(rank, nodes, copies)}
    assert inverse == pairs


def test_names_of_nodes_do_not_matter_so_a_replaced_node_changes_nothing():
    before = layout(4, 4, 4)
    after = ["zz" if node == "n1" else node for node in before]
    assert everyone(before, 2) == everyone(after, 2)


def test_a_large_world_is_no_trouble():
    nodes = layout(*[8] * 512)
    assert holders(0, nodes, 2) == (8, 16)
    assert wards(0, nodes, 2) == (4080, 4088)


def test_pods_count_where_there_is_one_node():
    pods = ["p0", "p0", "p1"]
    assert failure_domains(["n", "n", "n"], pods) == pods
    assert failure_domains(["n", "n", "m"], pods) == ["n", "n", "m"]
