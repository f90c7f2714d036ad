"""Who sends what: every wanted element once, evenly, and the same on all ranks."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.state.intervals import Interval, along, even_intervals
from reknit.state.transfer import Holding, Move, Want, missing, plan


def spans(*pairs: tuple[int, int]) -> list[Interval]:
    return [Interval(*pair) for pair in pairs]


def holding(rank: int, key: str = "own", **intervals: list[tuple[int, int]]) -> Holding:
    return Holding(rank, key, {name: spans(*pairs) for name, pairs in intervals.items()})


def want(rank: int, **intervals: list[tuple[int, int]]) -> Want:
    return Want(rank, {name: spans(*pairs) for name, pairs in intervals.items()})


def sent(moves: tuple[Move, ...]) -> Counter[int]:
    """Elements that each rank sends to others."""
    counts: Counter[int] = Counter()
    for move in moves:
        if move.source_rank != move.dest_rank:
            counts[move.source_rank] += move.stop - move.start
    return counts


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ({0: [(0, 10)]}, None),
        ({0: [(0, 4)], 1: [(4, 10)]}, None),
        ({0: [(0, 6)], 1: [(2, 10)]}, None),
        ({0: [(0, 8), (1, 2)], 1: [(8, 10)]}, None),
        ({}, "elements 0 to 9 of a"),
        ({0: [(0, 4)], 1: [(5, 10)]}, "elements 4 to 4 of a"),
        ({0: [(3, 10)]}, "elements 0 to 2 of a"),
        ({0: [(0, 9)], 1: [(2, 4)]}, "elements 9 to 9 of a"),
    ],
)
def test_what_nobody_holds_is_named(held, text):
    holdings = [holding(rank, a=pairs) for rank, pairs in held.items()]
    assert missing({"a": 10}, holdings) == text


def test_a_tensor_without_elements_needs_no_holder():
    assert missing({"empty": 0}, []) is None


def test_tensors_that_are_no_part_of_the_state_do_not_matter():
    assert missing({"a": 2, "b": 3}, [holding(0, a=[(0, 2)], c=[(0, 5)])]) == "elements 0 to 2 of b"


def test_a_newcomer_gets_its_shard_from_the_copy():
    holdings = [holding(0, "of 1", a=[(5, 10)]), holding(0, a=[(0, 5)]), holding(2, a=[(10, 12)])]
    assert plan([want(1, a=[(5, 10)])], holdings) == (Move(0, "of 1", 1, "a", 5, 10),)


def test_what_a_rank_holds_it_takes_from_itself():
    holdings = [holding(0, a=[(0, 6)]), holding(1, a=[(6, 10)]), holding(2, a=[(0, 10)])]
    assert plan([want(0, a=[(4, 8)])], holdings[:2]) == (
        Move(0, "own", 0, "a", 4, 6),
        Move(1, "own", 0, "a", 6, 8),
    )
    assert plan([want(2, a=[(0, 10)])], holdings) == (Move(2, "own", 2, "a", 0, 10),)


def test_a_move_stays_within_one_interval_of_its_source():
    holdings = [holding(0, a=[(0, 4), (4, 9)])]
    assert plan([want(1, a=[(1, 8)])], holdings) == (
        Move(0, "own", 1, "a", 1, 4),
        Move(0, "own", 1, "a", 4, 8),
    )


def test_cuts_of_other_holders_do_not_cut_moves():
    holdings = [holding(1, a=[(0, 10)]), holding(0, a=[(3, 5)]), holding(2, a=[(7, 9)])]
    assert plan([want(1, a=[(0, 10)])], holdings) == (Move(1, "own", 1, "a", 0, 10),)


def test_of_what_a_rank_holds_twice_one_interval_is_used_for_as_long_as_it_goes():
    holdings = [holding(0, "b", a=[(0, 8)]), holding(0, "a", a=[(2, 10)])]
    assert plan([want(1, a=[(0, 10)])], holdings) == (
        Move(0, "b", 1, "a", 0, 8),
        Move(0, "a", 1, "a", 8, 10),
    )


def test_overlapping_wants_are_moved_once():
    holdings = [holding(0, a=[(0, 20)])]
    wants = [want(1, a=[(2, 6), (4, 8), (12, 14)]), want(1, a=[(3, 4), (8, 9)])]
    assert plan(wants, holdings) == (
        Move(0, "own", 1, "a", 2, 9),
        Move(0, "own", 1, "a", 12, 14),
    )


def test_what_nobody_holds_cannot_be_planned():
    with pytest.raises(ValueError, match="nobody holds element 4 of a"):
        plan([want(1, a=[(2, 6)])], [holding(0, a=[(0, 4), (5, 9)])])
    with pytest.raises(ValueError, match="nobody holds element 0 of b"):
        plan([want(1, b=[(0, 6)])], [holding(0, a=[(0, 4)])])


@pytest.mark.parametrize("num_sources", [2, 3, 7])
def test_replicas_share_in_sending(num_sources):
    sizes = {"large": 3_000_000, "small": 1000, "medium": 40_000}
    whole = {name: [(0, size)] for name, size in sizes.items()}
    holdings = [holding(rank, **whole) for rank in range(num_sources)]
    moves = plan([want(num_sources, **whole)], holdings)
    loads = sent(moves)
    fair = sum(sizes.values()) / num_sources
    assert set(loads) == set(range(num_sources))
    assert all(abs(load - fair) < 0.1 * fair for load in loads.values())
    assert len(moves) < 20 * num_sources


def test_who_must_send_something_sends_less_of_the_rest():
    # Rank 0 alone has b, and so rank 1 sends all of a.
    holdings = [
        holding(0, a=[(0, 50_000)], b=[(0, 50_000)]),
        holding(1, a=[(0, 50_000)]),
    ]
    moves = plan([want(2, a=[(0, 50_000)], b=[(0, 50_000)])], holdings)
    assert moves == (Move(1, "own", 2, "a", 0, 50_000), Move(0, "own", 2, "b", 0, 50_000))


def test_the_own_node_is_preferred_between_equals():
    holdings = [holding(rank, a=[(0, 100)]) for rank in range(4)]
    nodes = ["x", "y", "z", "x", "z"]
    assert plan([want(4, a=[(0, 100)])], holdings, nodes) == (Move(2, "own", 4, "a", 0, 100),)
    busy = [*holdings, holding(2, b=[(0, 1)])]
    moves = plan([want(4, a=[(0, 100)], b=[(0, 1)])], busy, nodes)
    assert sent(moves) == {0: 100, 2: 1}


NAMES = ("a", "b", "c")
SIZE = 40
PIECES = st.lists(
    st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: tuple(sorted(pair))),
    max_size=3,
)
PLACES = st.dictionaries(st.sampled_from(NAMES), PIECES)


def elements(intervals) -> set[tuple[str, int]]:
    return {
        (name, element)
        for name, parts in intervals.items()
        for part in parts
        for element in range(part.start, part.stop)
    }


@st.composite
def situations(draw):
    holdings = [
        holding(rank, key, **draw(PLACES))
        for rank in range(draw(st.integers(1, 5)))
        for key in draw(st.sampled_from([["own"], ["own", "copy"]]))
    ]
    # Together with this one every element is held.
    holdings.append(holding(draw(st.integers(0, 6)), "all", **{n: [(0, SIZE)] for n in NAMES}))
    wants = [want(rank, **draw(PLACES)) for rank in draw(st.lists(st.integers(0, 6), max_size=5))]
    return wants, holdings


@given(situations(), st.randoms(use_true_random=False), st.booleans())
def test_every_wanted_element_moves_once_from_where_it_is(situation, random, with_nodes):
    wants, holdings = situation
    nodes = ["x", "y", "x", "y", "z", "x", "x"] if with_nodes else []
    moves = plan(wants, holdings, nodes)

    random.shuffle(wants)
    random.shuffle(holdings)
    assert plan(wants, holdings, nodes) == moves

    moved = Counter(
        (move.dest_rank, (move.name, element))
        for move in moves
        for element in range(move.start, move.stop)
    )
    wanted = {(want.rank, element) for want in wants for element in elements(want.intervals)}
    assert moved == Counter(wanted)
    for move in moves:
        within = [
            part
            for held in holdings
            if (held.rank, held.key) == (move.source_rank, move.source_key)
            for part in held.intervals.get(move.name, ())
            if part.start <= move.start and move.stop <= part.stop
        ]
        assert within
        itself = [held for held in holdings if held.rank == move.dest_rank]
        own = {element for held in itself for element in elements(held.intervals)}
        remote = move.source_rank != move.dest_rank
        assert all(
            remote is ((move.name, element) not in own) for element in range(move.start, move.stop)
        )


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_any_world_can_be_divided_anew(before, after, sizes):
    def shares(num_ranks: int) -> list[dict[str, list[Interval]]]:
        parts = {f"t{i}": list(even_intervals(size, num_ranks)) for i, size in enumerate(sizes)}
        return [{name: [cut[rank]] for name, cut in parts.items()} for rank in range(num_ranks)]

    holdings = [Holding(rank, "own", share) for rank, share in enumerate(shares(before))]
    wants = [Want(rank, share) for rank, share in enumerate(shares(after))]
    moves = plan(wants, holdings)
    assert sum(move.stop - move.start for move in moves) == sum(sizes)
    # Cuts of two partitions: no rank's part of a tensor comes from more places than there are cuts.
    assert len(moves) <= len(sizes) * (before + after - 1)


def test_a_hundred_thousand_intervals_are_planned():
    num_ranks, num_tensors = 50, 1000
    parts = list(even_intervals(10_000, num_ranks))
    names = [f"t{index}" for index in range(num_tensors)]
    holdings = [
        Holding(rank, key, {name: [parts[(rank + step) % num_ranks]] for name in names})
        for rank in range(1, num_ranks)
        for key, step in (("own", 0), ("copy", 1))
    ]
    moves = plan([Want(0, {name: [parts[0], parts[1]] for name in names})], holdings)
    assert sent(moves).total() == num_tensors * (len(parts[0]) + len(parts[1]))


def part(rank: int, place: int, rows: int, name: str = "a") -> Holding:
    """One of two parts of a tensor of rows of 8, cut along its columns."""
    return Holding(rank, "own", {name: tuple(along((rows, 8), 1, 2, place))})


@pytest.mark.parametrize("rows", [8, 200])
def test_a_part_in_very_many_intervals_comes_from_one_that_has_the_same(rows):
    """Or, where it is in few, from all that have it."""
    holdings = [part(0, 0, rows), part(1, 1, rows), part(2, 0, rows)]
    wanted = holdings[1].intervals["a"]
    moves = plan([Want(3, {"a": wanted})], holdings)
    assert [(move.start, move.stop) for move in moves] == [(i.start, i.stop) for i in wanted]
    assert {(move.source_rank, move.dest_rank) for move in moves} == {(1, 3)}


def test_parts_are_shared_out_among_those_that_have_them():
    names = ["a", "b", "c", "d"]
    holdings = [part(rank, 0, 100, name) for rank in (0, 1) for name in names]
    wanted = dict.fromkeys(names, holdings[0].intervals["a"])
    assert sent(plan([Want(2, wanted)], holdings)) == {0: 800, 1: 800}
    near = plan([Want(2, {"a": wanted["a"]})], holdings, ["far", "near", "near"])
    assert {move.source_rank for move in near} == {1}
    own = plan([Want(1, wanted)], holdings)
    assert sent(own) == {}


@pytest.mark.parametrize("rows", [6, 100])
def test_parts_of_another_number_of_ranks_are_put_together(rows):
    holdings = [part(0, 0, rows), part(1, 1, rows)]
    wants = [Want(rank, {"a": tuple(along((rows, 8), 1, 4, rank))}) for rank in range(4)]
    found = [
        (move.dest_rank, element)
        for move in plan(wants, holdings)
        for element in range(move.start, move.stop)
    ]
    expected = [
        (want.rank, element)
        for want in wants
        for interval in want.intervals["a"]
        for element in range(interval.start, interval.stop)
    ]
    assert sorted(found) == sorted(expected)
