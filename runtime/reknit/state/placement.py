"""Which ranks keep the copies of which rank's shard.

All ranks stand in a ring, node after node. A copy is kept as many places further on as the largest
node has ranks, the second copy as many again: so copies lie on other nodes, and every rank keeps as
many as every other. Where a node is too large for that, a copy goes to the rank that keeps fewest,
the next in the ring, of those on another node than the original and the other copy; if there are
none, of those on another node than the original.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache


def failure_domains(nodes: Sequence[str], pods: Sequence[str]) -> Sequence[str]:
    """What each rank is likely to be lost with: its node, or its pod if all share one node."""
    return nodes if len(set(nodes)) > 1 else pods


def copies_needed(shares: Sequence[int], domains: Sequence[str], copies: int) -> int:
    """How many copies of each rank's share are kept: none where replicas do the same.

    They do if every share lies in several failure domains; or, where there is one domain for all,
    if every share has several holders.

    Args:
        shares: what each rank holds; the same number is the same share.
        domains: what each rank is likely to be lost with.
        copies: copies that are wanted of what has no replica.
    """
    several = len(set(domains)) > 1
    places: dict[int, set[object]] = {}
    for rank, (share, domain) in enumerate(zip(shares, domains, strict=True)):
        places.setdefault(share, set()).add(domain if several else rank)
    return 0 if all(len(found) > 1 for found in places.values()) else copies


def holders(rank: int, nodes: Sequence[str], copies: int) -> tuple[int, ...]:
    """The ranks that keep copies of the shard of `rank`, `copies` of them if the world is so large.

    Args:
        rank: whose shard.
        nodes: the node of each rank.
        copies: wanted copies of each shard.
    """
    return assignment(nodes, copies)[rank]


def wards(rank: int, nodes: Sequence[str], copies: int) -> tuple[int, ...]:
    """The ranks of whose shards `rank` keeps a copy, in their order."""
    everyone = assignment(nodes, copies)
    return tuple(other for other, found in enumerate(everyone) if rank in found)


def assignment(nodes: Sequence[str], copies: int) -> tuple[tuple[int, ...], ...]:
    """The ranks that keep copies of the shard of each rank."""
    return _assignment(tuple(nodes), copies)


@lru_cache(maxsize=16)
def _assignment(nodes: tuple[str, ...], copies: int) -> tuple[tuple[int, ...], ...]:
    ring = _ring(nodes)
    place = {rank: index for index, rank in enumerate(ring)}
    step = max(Counter(nodes).values(), default=0)
    found: dict[int, list[int]] = {rank: [] for rank in ring}
    duties: Counter[int] = Counter()
    for copy in range(1, min(copies, len(nodes) - 1) + 1):
        for rank in ring:
            if (copy + 1) * step <= len(ring):
                holder = ring[(place[rank] + copy * step) % len(ring)]
            else:
                after = place[[rank, *found[rank]][-1]] + 1
                around = [*ring[after:], *ring[:after]]
                holder = _best(rank, around, found[rank], nodes, duties)
            found[rank].append(holder)
            duties[holder] += 1
    return tuple(tuple(found[rank]) for rank in range(len(nodes)))


def _ring(nodes: Sequence[str]) -> list[int]:
    """All ranks, node after node; the largest node, which has the least choice, comes first."""
    sizes = Counter(nodes)
    order = {node: index for index, node in enumerate(sorted(sizes, key=lambda n: -sizes[n]))}
    return sorted(range(len(nodes)), key=lambda rank: (order[nodes[rank]], rank))


def _best(
    rank: int,
    around: Sequence[int],
    others: Sequence[int],
    nodes: Sequence[str],
    duties: Counter[int],
) -> int:
    taken = {nodes[other] for other in others}
    return min(
        (other for other in around if other != rank and other not in others),
        key=lambda other: (nodes[other] == nodes[rank], nodes[other] in taken, duties[other]),
    )
