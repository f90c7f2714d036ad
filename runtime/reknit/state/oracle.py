"""Which losses the memory of the other ranks makes up for, as far as the layout tells.

Each rank holds a share of the state. Ranks that hold the same share are replicas of each other;
what only ranks hold that are lost together is held by others as copies. Copies are taken to be
complete: after a loss they are not, until the new rank has got back those that it keeps.
"""

from collections.abc import Collection, Sequence

from reknit.mesh import replicas
from reknit.state.placement import assignment, copies_needed


def holders(shares: Sequence[int], nodes: Sequence[str], copies: int) -> list[frozenset[int]]:
    """For each rank all that hold its share: itself, its replicas, and those that keep copies.

    Args:
        shares: what each rank holds; the same number is the same share.
        nodes: the node of each rank.
        copies: copies of each share, where they are needed.
    """
    kept = assignment(nodes, copies_needed(shares, nodes, copies))
    return [frozenset(own).union(*(kept[rank] for rank in own)) for own in replicas(shares)]


def survives(
    shares: Sequence[int], nodes: Sequence[str], copies: int, lost: Collection[int]
) -> bool:
    """Whether the other ranks hold the whole state when the ranks `lost` are lost at once."""
    everyone = holders(shares, nodes, copies)
    gone = set(lost)
    return all(not gone.issuperset(everyone[rank]) for rank in gone)


def survivable_ranks(shares: Sequence[int], nodes: Sequence[str], copies: int) -> int:
    """The largest number of ranks whose loss is survived whichever ranks they are."""
    # The fewest to lose are all that hold one share.
    return min(map(len, holders(shares, nodes, copies))) - 1


def survivable_nodes(shares: Sequence[int], nodes: Sequence[str], copies: int) -> int:
    """The largest number of whole nodes whose loss is survived whichever nodes they are."""
    return min(
        len({nodes[rank] for rank in everyone}) - 1 for everyone in holders(shares, nodes, copies)
    )


def unsurvivable_pairs(
    shares: Sequence[int], nodes: Sequence[str], copies: int
) -> frozenset[tuple[int, int]]:
    """The pairs of ranks, the lower one first, whose loss at once is not survived."""
    pairs: set[tuple[int, int]] = set()
    for everyone in holders(shares, nodes, copies):
        match sorted(everyone):
            case (only,):
                pairs |= {_ordered(only, other) for other in range(len(nodes)) if other != only}
            case (one, other):
                pairs.add((one, other))
    return frozenset(pairs)


def _ordered(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
