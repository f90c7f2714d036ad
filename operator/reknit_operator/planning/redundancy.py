"""How often each part of the state is held in memory, and where it comes from when it is lost."""

from collections.abc import Sequence
from datetime import timedelta

from reknit.layout import Sharding
from reknit.mesh import Mesh
from reknit.protocol.base import Message
from reknit.protocol.settings import CheckpointSettings
from reknit.state.oracle import survivable_nodes, survivable_ranks, unsurvivable_pairs
from reknit.state.placement import copies_needed


class Redundancy(Message):
    """What survives the loss of ranks."""

    parameter_copies: int
    """Ranks that hold each parameter, with those that keep copies."""
    optimizer_copies: int
    """Ranks that hold each element of the optimizer's state, likewise."""
    source: str
    """Where a lost rank's state comes from."""
    survivable: str | None
    """What may be lost at once without going back to a checkpoint; None if nothing may."""


def redundancy(
    sharding: Sharding,
    mesh: Mesh,
    pods: Sequence[str],
    copies: int,
    otherwise: str,
) -> Redundancy:
    """What a way of sharding means for the loss of ranks.

    Args:
        sharding: what the data-parallel ranks divide among themselves.
        mesh: where each rank stands.
        pods: the pod of each rank; each is taken to run on a node of its own.
        copies: copies of each shard.
        otherwise: where state comes from that is in no memory.
    """
    shares = mesh.shares(sharding)
    holders = 1 + survivable_ranks(shares, pods, copies)
    weights_alone = sharding.divides_weights or not sharding.is_sharded
    return Redundancy(
        parameter_copies=holders if weights_alone else mesh.num_data,
        optimizer_copies=holders,
        source=_source(shares, pods, copies) or otherwise,
        survivable=_survivable(shares, pods, copies),
    )


def last_resort(checkpoint: CheckpointSettings | None, *, only_local: bool = False) -> str:
    """Where state comes from that nobody holds in memory any more.

    Args:
        checkpoint: what there is beyond memory.
        only_local: whether a cluster would have no place for it.
    """
    if checkpoint is None:
        return "nowhere: training starts again, as no checkpoint.volume is given"
    bounds = []
    if checkpoint.every_steps is not None:
        bounds.append(f"{checkpoint.every_steps} steps")
    if checkpoint.every_seconds is not None:
        bounds.append(_words(timedelta(seconds=checkpoint.every_seconds)))
    whose = " of a local run" if only_local else ""
    return f"the newest checkpoint{whose}, at most {' or '.join(bounds)} old"


def _source(shares: Sequence[int], pods: Sequence[str], copies: int) -> str | None:
    if not survivable_ranks(shares, pods, copies):
        return None
    if len(set(shares)) == 1:
        return "any other rank"
    if not copies_needed(shares, pods, copies):
        return "another rank with the same part of the model"
    where = "in another pod" if len(set(pods)) > 1 else "in the same pod"
    return f"a copy that a rank {where} keeps"


def _survivable(shares: Sequence[int], pods: Sequence[str], copies: int) -> str | None:
    num_ranks = len(pods)
    any_ranks = survivable_ranks(shares, pods, copies)
    if not any_ranks:
        return None
    if any_ranks == num_ranks - 1:
        return "all ranks but one"
    losses = []
    any_pods = survivable_nodes(shares, pods, copies)
    if any_pods:
        losses.append(_any(any_pods, "pod"))
    if any_pods < any_ranks:
        losses.append(_any(any_ranks, "rank"))
    pairs = num_ranks * (num_ranks - 1) // 2
    replicated = not copies_needed(shares, pods, copies)
    if any_ranks == 1 and not replicated and len(unsurvivable_pairs(shares, pods, copies)) < pairs:
        losses.append("any 2 ranks of which neither keeps the other's copy")
    return "; ".join(losses)


def _any(number: int, thing: str) -> str:
    return f"any {thing}" if number == 1 else f"any {number} {thing}s"


def _words(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
