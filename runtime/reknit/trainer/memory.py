"""Bringing a version together from what surviving ranks hold of it.

Every rank tells what it holds and what it needs; each works out the same moves from that, and sends
and receives its own. What is received lies beside the state until all of it is there.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from pydantic import Field

from reknit.comm.group import RankGroup
from reknit.protocol.base import Json, Message
from reknit.state.description import Interval, LocalState, Piece, TensorSpec
from reknit.state.transfer import Holding, Move, Want, missing, plan

OWN: Final = "own"
"""The key of what a rank holds as its own share, beside copies of others'."""
_SMALL: Final = 1 << 16
"""Bytes; smaller tensors are sent together."""
_OPTIMIZER: Final = "optimizer/"
_PARAMETER: Final = "param/"

Places = dict[str, tuple[tuple[int, int], ...]]
"""Intervals by name of the tensor."""


class Share(Message):
    """What one rank holds of the version, and what it lacks."""

    held: dict[str, dict[str, tuple[tuple[int, int], ...]]] = Field(default_factory=dict)
    """Intervals by key, then by name of the tensor."""
    needed: dict[str, tuple[tuple[int, int], ...]] = Field(default_factory=dict)
    """Of parameters and buffers; the optimizer's state is needed where the parameters are."""
    own: str | None = None
    """What else is needed: every tensor whose name begins so, whole."""
    specs: dict[str, tuple[tuple[int, ...], str]] | None = None
    """Shape and number format of every tensor, told by the first rank that holds anything."""
    scalars: dict[str, Json] | None = None
    """Told by the same rank."""
    replaceable: str | None = None
    """Likewise: what need not be complete."""


def share_of(held: Mapping[str, LocalState], needed: LocalState | None, *, first: bool) -> Share:
    """What this rank tells.

    Args:
        held: what it holds of the version, by key.
        needed: the share that it has to come to hold; None if it has it in place.
        first: no rank before this one holds anything.
    """
    told: dict[str, Any] = {}
    if first:
        state = held[OWN]
        told["specs"] = {
            name: (spec.shape, str(spec.dtype).removeprefix("torch."))
            for name, spec in state.specs.items()
        }
        told["scalars"] = state.scalars
        told["replaceable"] = state.replaceable
    if needed is not None:
        told["own"] = needed.own
    wanted = {} if needed is None else _places(needed, optimizer=False)
    return Share(held={key: _places(state) for key, state in held.items()}, needed=wanted, **told)


def _places(state: LocalState, *, optimizer: bool = True) -> Places:
    places: dict[str, list[tuple[int, int]]] = {}
    for piece in state.pieces:
        if optimizer or not piece.name.startswith(_OPTIMIZER):
            interval = (piece.interval.start, piece.interval.stop)
            places.setdefault(piece.name, []).append(interval)
    return {name: tuple(intervals) for name, intervals in places.items()}


@dataclass(frozen=True)
class Collection:
    """What all ranks have told."""

    shares: tuple[Share, ...]
    specs: Mapping[str, TensorSpec]
    scalars: dict[str, Json]
    lost: frozenset[str] = frozenset()
    """Tensors that nobody holds, and that are begun anew."""

    @classmethod
    def of(cls, shares: Iterable[Share]) -> "Collection":
        """All shares, in the order of the ranks; at least one comes with specs."""
        shares = tuple(shares)
        teller = next(share for share in shares if share.specs is not None)
        specs = {
            name: TensorSpec(tuple(shape), getattr(torch, dtype))
            for name, (shape, dtype) in (teller.specs or {}).items()
        }
        held = {name for share in shares for places in share.held.values() for name in places}
        lost = frozenset(
            name
            for name in specs
            if teller.replaceable is not None
            and name.startswith(teller.replaceable)
            and name not in held
        )
        kept = {name: spec for name, spec in specs.items() if name not in lost}
        return cls(shares, kept, dict(teller.scalars or {}), lost)

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """Everything that is held."""
        return tuple(
            Holding(rank, key, _intervals(places))
            for rank, share in enumerate(self.shares)
            for key, places in share.held.items()
        )

    def lacking(self) -> str | None:
        """The first thing that nobody holds; None if the version is complete."""
        sizes = {name: spec.num_elements for name, spec in self.specs.items()}
        return missing(sizes, self.holdings)

    def moves(self, nodes: Sequence[str]) -> tuple[Move, ...]:
        """What goes from where to where, with the node of each rank."""
        wants = tuple(
            Want(rank, _intervals(self._wanted(share)))
            for rank, share in enumerate(self.shares)
            if share.needed
        )
        return plan(wants, self.holdings, nodes)

    def _wanted(self, share: Share) -> Places:
        needed = share.needed
        wanted = {name: places for name, places in needed.items() if name in self.specs}
        for full_name, spec in self.specs.items():
            if share.own is not None and full_name.startswith(share.own):
                wanted[full_name] = ((0, spec.num_elements),)
            if not full_name.startswith(_OPTIMIZER):
                continue
            parameter = _PARAMETER + full_name.split("/", 2)[2]
            if parameter in needed:
                elementwise = spec.shape == self.specs[parameter].shape
                wanted[full_name] = needed[parameter] if elementwise else ((0, spec.num_elements),)
        return wanted


def _intervals(places: Places) -> dict[str, tuple[Interval, ...]]:
    return {
        name: tuple(Interval(start, stop) for start, stop in intervals)
        for name, intervals in places.items()
    }


class Collected:
    """A rank's part of a version, as a source of state to install from."""

    def __init__(self, specs: Mapping[str, TensorSpec], scalars: Mapping[str, Json]) -> None:
        self.specs = specs
        self.scalars = scalars
        self._parts: dict[str, list[tuple[Interval, torch.Tensor]]] = {}

    def add(self, name: str, interval: Interval, data: torch.Tensor) -> None:
        """Elements that are there, or will be once they are received."""
        self._parts.setdefault(name, []).append((interval, data))

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        """The elements; a view if they came in one part."""
        parts = self._parts[name]
        found = []
        # They come in the order of the moves, which is theirs.
        for part, data in parts[bisect_right(parts, interval.start, key=_stop) :]:
            common = part.intersect(interval)
            if common is None:
                break
            found.append(data[common.start - part.start : common.stop - part.start])
        whole = found[0] if len(found) == 1 else torch.cat(found)
        assert whole.numel() == len(interval), f"{name} is not complete"
        return whole

    def __str__(self) -> str:
        return "in memory"


def transfer(group: RankGroup, collection: Collection, held: Mapping[str, LocalState]) -> Collected:
    """Sends what others need and receives what this rank does; returns when all of it is done."""
    collected = Collected(collection.specs, collection.scalars)
    sent: dict[int, list[torch.Tensor]] = defaultdict(list)
    received: dict[int, list[torch.Tensor]] = defaultdict(list)
    index = {key: _Index(state) for key, state in held.items()}
    for move in collection.moves(group.nodes):
        interval = Interval(move.start, move.stop)
        if move.source_rank == group.rank:
            data = index[move.source_key].view(move.name, interval)
            if move.dest_rank == group.rank:
                collected.add(move.name, interval, data)
            else:
                sent[move.dest_rank].append(data)
        elif move.dest_rank == group.rank:
            dtype = collection.specs[move.name].dtype
            data = torch.empty(len(interval), dtype=dtype, device=group.device)
            received[move.source_rank].append(data)
            collected.add(move.name, interval, data)
    _exchange(group, sent, received)
    return collected


def _exchange(
    group: RankGroup,
    sent: Mapping[int, Sequence[torch.Tensor]],
    received: Mapping[int, Sequence[torch.Tensor]],
) -> None:
    """Sends and receives, by rank, tensors that both sides have in the same order.

    Small ones go together, as there may be very many: a message for each would take longer than
    the bytes.
    """
    out = [
        (tensor, rank)
        for rank, tensors in sent.items()
        for tensor in (*_large(tensors), *(_packed(_small(tensors))))
    ]
    packs = {rank: _packed(_small(tensors)) for rank, tensors in received.items()}
    into = [
        (tensor, rank)
        for rank, tensors in received.items()
        for tensor in (*_large(tensors), *packs[rank])
    ]
    for work in group.exchange(out, into):
        work.wait()
    for rank, pack in packs.items():
        for whole in pack:
            small = [each.view(torch.uint8) for each in _small(received[rank])]
            parts = torch.split(whole, [len(each) for each in small])
            for tensor, part in zip(small, parts, strict=True):
                tensor.copy_(part)


def _large(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor.nbytes >= _SMALL]


def _small(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor.nbytes < _SMALL]


def _packed(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """All bytes in one tensor, if there are any."""
    return [torch.cat([tensor.view(torch.uint8) for tensor in tensors])] if tensors else []


class _Index:
    """Finds pieces of a held state."""

    def __init__(self, state: LocalState) -> None:
        self._pieces: dict[str, list[Piece]] = {}
        for piece in state.pieces:
            self._pieces.setdefault(piece.name, []).append(piece)
        for pieces in self._pieces.values():
            pieces.sort(key=_start)

    def view(self, name: str, interval: Interval) -> torch.Tensor:
        """The elements in `interval`, which lie within one piece."""
        pieces = self._pieces[name]
        piece = pieces[bisect_right(pieces, interval.start, key=_start) - 1]
        assert piece.interval.start <= interval.start, f"{name} at {interval} is not held here"
        assert interval.stop <= piece.interval.stop, f"{name} at {interval} is not held here"
        start = interval.start - piece.interval.start
        return piece.data[start : start + len(interval)]


def _start(piece: Piece) -> int:
    return piece.interval.start


def _stop(part: tuple[Interval, torch.Tensor]) -> int:
    return part[0].stop
