"""Who sends what to whom, so that each rank comes to hold what it needs.

A pure function of what all ranks hold and need. Every rank works it out by itself, so the result is
the same whatever the order of what it is given.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import groupby
from typing import Final, NamedTuple

from reknit.state.intervals import Interval

_PARTS: Final = 8
"""Parts that what one source sends on average is cut into, where others could send it as well."""
_SMALLEST_PART: Final = 1 << 14
"""Elements; to send fewer takes about as long."""
_VERY_MANY: Final = 32
"""Intervals of one tensor on one rank."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one rank holds of the version that was agreed on, under one key."""

    rank: int
    key: str
    """Tells apart what a rank holds: its own share, and each copy of another's."""
    intervals: Mapping[str, Sequence[Interval]]
    """By name of the tensor; what goes out of each is one view of memory."""


@dataclass(frozen=True, slots=True)
class Want:
    """What one rank has to come to hold."""

    rank: int
    intervals: Mapping[str, Sequence[Interval]]


@dataclass(frozen=True, slots=True)
class Move:
    """Elements that go from where they are held to where they are wanted."""

    source_rank: int
    """The destination itself, if it holds them already: nothing is sent."""
    source_key: str
    dest_rank: int
    name: str
    start: int
    stop: int


def missing(sizes: Mapping[str, int], holdings: Iterable[Holding]) -> str | None:
    """The first elements that nobody holds, in words; None if there are none.

    Args:
        sizes: elements of each tensor of the state.
        holdings: everything that is held.
    """
    held: dict[str, list[tuple[int, int]]] = {name: [] for name in sizes}
    for holding in holdings:
        for name in holding.intervals.keys() & held.keys():
            held[name] += [(part.start, part.stop) for part in holding.intervals[name]]
    for name, size in sizes.items():
        reached = 0
        for start, stop in [*sorted(held[name]), (size, size)]:
            if start > reached:
                return f"elements {reached} to {start - 1} of {name}"
            reached = max(reached, stop)
    return None


def plan(
    wants: Iterable[Want], holdings: Iterable[Holding], nodes: Sequence[str] = ()
) -> tuple[Move, ...]:
    """Moves that bring each rank every element that it wants once, in the same order on all ranks.

    A rank takes from itself what it holds. In sending the rest, all who hold the same share alike;
    between two who have sent as much, one on the destination's node is taken. A move stays within
    one interval of its source.

    Args:
        wants: what ranks want; a rank may come more than once.
        holdings: everything that is held.
        nodes: the node of each rank, if that matters.

    Raises:
        ValueError: a wanted element is held by nobody.
    """
    holdings = tuple(holdings)
    wants, alike = _divided(wants, holdings, nodes)
    held = _Held(holdings, {name for want in wants for name in want.intervals})
    moves: list[_Move] = list(alike)
    shared: list[_Shared] = []
    for rank, name, start, stop in _merged(wants):
        for first, last, holders in held.within(name, start, stop):
            own = next((holder for holder in holders if holder.rank == rank), None)
            if own is not None:
                moves.append(_Move(rank, name, first, last, own))
            else:
                shared.append(_Shared(rank, name, first, last, holders))
    moves += _spread(shared, nodes)
    moves.sort()
    return tuple(
        Move(m.source.rank, m.source.key, m.dest, m.name, m.start, m.stop) for m in _joined(moves)
    )


class _Holder(NamedTuple):
    """Who holds some elements, and where the interval begins in which they lie."""

    rank: int
    key: str
    begin: int


class _Move(NamedTuple):
    """A move with the interval that it comes from."""

    dest: int
    name: str
    start: int
    stop: int
    source: _Holder


class _Shared(NamedTuple):
    """Elements whose source is still to be chosen."""

    dest: int
    name: str
    start: int
    stop: int
    holders: tuple[_Holder, ...]


def _divided(
    wants: Iterable[Want], holdings: Sequence[Holding], nodes: Sequence[str]
) -> tuple[list[Want], list[_Move]]:
    """Moves of tensors that are wanted in very many intervals, and held in the same; other wants.

    So are parts of layers that are cut along rows: to look for who holds each interval would take
    longer than to send them.
    """
    by_name: dict[str, list[Holding]] = defaultdict(list)
    for holding in holdings:
        for name, parts in holding.intervals.items():
            if len(parts) >= _VERY_MANY:
                by_name[name].append(holding)
    rest: list[Want] = []
    moves: list[_Move] = []
    loads: dict[int, int] = defaultdict(int)
    wants = list(wants)
    times = Counter((want.rank, name) for want in wants for name in want.intervals)
    for want in sorted(wants, key=lambda want: want.rank):
        others = {}
        for name, parts in sorted(want.intervals.items()):
            alike = [
                holding
                for holding in by_name.get(name, ())
                if times[want.rank, name] == 1 and holding.intervals[name] == parts
            ]
            if not alike:
                others[name] = parts
                continue
            source = min(alike, key=lambda found: _distance(found, want.rank, loads, nodes))
            if source.rank != want.rank:
                loads[source.rank] += sum(map(len, parts))
            moves += (
                _Move(want.rank, name, p.start, p.stop, _Holder(source.rank, source.key, p.start))
                for p in parts
            )
        rest.append(Want(want.rank, others))
    return rest, moves


def _distance(
    holding: Holding, dest: int, loads: Mapping[int, int], nodes: Sequence[str]
) -> tuple[bool, int, bool, int, str]:
    far = bool(nodes) and nodes[holding.rank] != nodes[dest]
    return holding.rank != dest, loads[holding.rank], far, holding.rank, holding.key


def _merged(wants: Iterable[Want]) -> Iterator[tuple[int, str, int, int]]:
    """(rank, name, start, stop) of what is wanted, without overlaps."""
    wanted = sorted(
        (want.rank, name, part.start, part.stop)
        for want in wants
        for name, parts in want.intervals.items()
        for part in parts
    )
    for (rank, name), group in groupby(wanted, key=lambda entry: entry[:2]):
        (_, _, start, stop), *others = group
        for _, _, first, last in others:
            if first > stop:
                yield rank, name, start, stop
                start = first
            stop = max(stop, last)
        yield rank, name, start, stop


class _Held:
    """All tensors, each cut where an interval of any holder begins or ends."""

    def __init__(self, holdings: Iterable[Holding], names: Collection[str]) -> None:
        events: dict[str, list[tuple[int, bool, _Holder]]] = defaultdict(list)
        for holding in holdings:
            for name in holding.intervals.keys() & names:
                parts = holding.intervals[name]
                for part in parts:
                    holder = _Holder(holding.rank, holding.key, part.start)
                    events[name] += [(part.start, True, holder), (part.stop, False, holder)]
        self._cuts: dict[str, tuple[list[int], list[tuple[_Holder, ...]]]] = {}
        for name, found in events.items():
            found.sort()
            self._cuts[name] = _sweep(found)

    def within(
        self, name: str, start: int, stop: int
    ) -> Iterator[tuple[int, int, tuple[_Holder, ...]]]:
        """(start, stop, holders) of what an interval is cut into."""
        places, holders = self._cuts.get(name, ([], []))
        index = bisect_right(places, start) - 1
        while start < stop:
            if index < 0 or not holders[index]:
                raise ValueError(f"nobody holds element {start} of {name}")
            # There is a next place, because nobody holds what comes after the last one.
            last = min(stop, places[index + 1])
            yield start, last, holders[index]
            start, index = last, index + 1


def _sweep(
    events: Sequence[tuple[int, bool, _Holder]],
) -> tuple[list[int], list[tuple[_Holder, ...]]]:
    """Places where the holders change, and who holds the elements from there on, once per rank.

    Of what a rank holds twice, the interval that began first counts: so moves stay long.
    """
    places: list[int] = []
    found: list[tuple[_Holder, ...]] = []
    active: dict[_Holder, int] = defaultdict(int)
    for place, group in groupby(events, key=lambda event: event[0]):
        for _, begins, holder in group:
            active[holder] += 1 if begins else -1
            if not active[holder]:
                del active[holder]
        by_rank: dict[int, _Holder] = {}
        for holder in active:
            by_rank.setdefault(holder.rank, holder)
        places.append(place)
        found.append(tuple(by_rank.values()))
    return places, found


def _spread(shared: Sequence[_Shared], nodes: Sequence[str]) -> Iterator[_Move]:
    """Chooses the sources."""
    loads: dict[int, int] = defaultdict(int)
    several: list[_Shared] = []
    for part in shared:
        if len(part.holders) == 1:
            loads[part.holders[0].rank] += part.stop - part.start
            yield _Move(*part[:4], part.holders[0])
        else:
            several.append(part)
    ranks = {holder.rank for part in several for holder in part.holders}
    total = sum(part.stop - part.start for part in several)
    largest = max(_SMALLEST_PART, -(-total // (_PARTS * max(1, len(ranks)))))
    parts = [piece for part in several for piece in _cut(part, largest)]
    # The small ones come last and fill up what the large ones have left uneven.
    parts.sort(key=lambda part: (part.start - part.stop, part))
    choosers: dict[tuple[_Holder, ...], _Chooser] = {}
    for part in parts:
        if part.holders not in choosers:
            choosers[part.holders] = _Chooser(part.holders, loads, nodes)
        source = choosers[part.holders].choose(part.dest)
        loads[source.rank] += part.stop - part.start
        yield _Move(*part[:4], source)


def _cut(part: _Shared, largest: int) -> Iterator[_Shared]:
    for start in range(part.start, part.stop, largest):
        yield part._replace(start=start, stop=min(start + largest, part.stop))


class _Chooser:
    """Finds the least loaded of some holders; loads only ever grow."""

    def __init__(
        self, holders: Sequence[_Holder], loads: Mapping[int, int], nodes: Sequence[str]
    ) -> None:
        self._loads = loads
        self._nodes = nodes
        self._heap = [(loads[holder.rank], holder) for holder in holders]
        heapify(self._heap)
        self._by_node: dict[str, list[_Holder]] = defaultdict(list)
        for holder in holders if nodes else ():
            self._by_node[nodes[holder.rank]].append(holder)

    def choose(self, dest: int) -> _Holder:
        """One of those who have the least to send, on the node of `dest` if there is one."""
        heap, loads = self._heap, self._loads
        while heap[0][0] < loads[heap[0][1].rank]:
            heapreplace(heap, (loads[heap[0][1].rank], heap[0][1]))
        least, holder = heap[0]
        near = self._by_node.get(self._nodes[dest], ()) if self._nodes else ()
        return next((other for other in near if loads[other.rank] == least), holder)


def _joined(moves: Iterable[_Move]) -> Iterator[_Move]:
    """Adjacent moves out of the same interval as one."""
    last: _Move | None = None
    for move in moves:
        if last is not None and last.source == move.source and _follows(last, move):
            last = last._replace(stop=move.stop)
            continue
        if last is not None:
            yield last
        last = move
    if last is not None:
        yield last


def _follows(one: _Move, other: _Move) -> bool:
    return (one.dest, one.name, one.stop) == (other.dest, other.name, other.start)
