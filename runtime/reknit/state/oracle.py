"""Which losses the memory of the other ranks makes up for, as far as the layout tells.

Without sharding every rank holds everything. Under ZeRO each rank holds a shard that nobody else
holds but as a copy. Copies are taken to be complete: after a loss they are not, until the new rank
has got back those that it keeps.
"""

from collections.abc import Collection, Sequence

from reknit.layout import Sharding
from reknit.state.placement import assignment


def survives(sharding: Sharding, nodes: Sequence[str], copies: int, lost: Collection[int]) -> bool:
    """Whether the other ranks hold the whole state when `lost` are lost at once.

    Args:
        sharding: what ranks divide among themselves.
        nodes: the node of each rank.
        copies: copies of each shard; without sharding there are no shards.
        lost: ranks.
    """
    if sharding is Sharding.NONE:
        return len(set(lost)) < len(nodes)
    return _has_holders(lost, assignment(nodes, copies))


def survivable_ranks(sharding: Sharding, nodes: Sequence[str], copies: int) -> int:
    """The largest number of ranks whose loss is survived whichever ranks they are."""
    if sharding is Sharding.NONE:
        return len(nodes) - 1
    # The fewest to lose are a rank and all that keep its copies.
    return min(map(len, assignment(nodes, copies)))


def survivable_nodes(sharding: Sharding, nodes: Sequence[str], copies: int) -> int:
    """The largest number of whole nodes whose loss is survived whichever nodes they are."""
    if sharding is Sharding.NONE:
        return len(set(nodes)) - 1
    return min(
        len({nodes[rank], *(nodes[holder] for holder in holders)}) - 1
        for rank, holders in enumerate(assignment(nodes, copies))
    )


def unsurvivable_pairs(
    sharding: Sharding, nodes: Sequence[str], copies: int
) -> frozenset[tuple[int, int]]:
    """The pairs of ranks, the lower one first, whose loss at once is not survived."""
    if sharding is Sharding.NONE:
        return frozenset({(0, 1)} if len(nodes) == 2 else ())
    pairs: set[tuple[int, int]] = set()
    for rank, holders in enumerate(assignment(nodes, copies)):
        match holders:
            case ():
                pairs |= {_ordered(rank, other) for other in range(len(nodes)) if other != rank}
            case (only,):
                pairs.add(_ordered(rank, only))
    return frozenset(pairs)


def _has_holders(lost: Collection[int], holders: Sequence[Sequence[int]]) -> bool:
    """Whether the shard of each lost rank is held by one that is not lost."""
    gone = set(lost)
    return all(not gone.issuperset(holders[rank]) for rank in gone)


def _ordered(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
