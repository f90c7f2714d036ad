"""Copies of what workers remember: sent once a round, before the gate that commits it.

Weights and the outer optimizer are the same on all ranks and need no copies. A copy of the round
under way waits beside that of the committed one, until the gate says which of them counts.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from reknit.comm.group import RankGroup
from reknit.state.description import LocalState
from reknit.state.protection import CHECK_STEPS, fingerprint
from reknit.state.remembered import Remembered, live, pieces


class RoundProtection:
    """This rank's part in the protection of what all workers remember.

    Args:
        group: the ranks.
        optimizer: this worker's.
        parameters: what it updates, by name.
        remembered: what it is to remember of the committed version.
        holders: the ranks that keep a copy of that.
        wards: the ranks of which this one keeps copies.
    """

    def __init__(
        self,
        group: RankGroup,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, torch.Tensor],
        remembered: Remembered,
        *,
        holders: Sequence[int],
        wards: Sequence[int],
    ) -> None:
        self._group = group
        self._optimizer = optimizer
        self._parameters = parameters
        self._remembered = remembered
        self._holders = tuple(holders)
        self._copies: dict[int, dict[str, torch.Tensor]] = {ward: {} for ward in wards}
        self._pending: dict[int, dict[str, torch.Tensor]] = {}
        self._works: list[dist.Work] = []

    def fill(self) -> None:
        """Takes over what is committed; all ranks together."""
        own = self._remembered.tensors()
        copies = self._room(own)
        for work in self._exchange(own, copies):
            work.wait()
        self._copies = copies

    def begin(self) -> None:
        """Begins to send what the round has come to."""
        own = dict(live(self._optimizer, self._parameters))
        self._pending = self._room(own)
        self._works = self._exchange(own, self._pending)

    def prepare(self) -> None:
        """Waits until it is sent, and that of the wards is here."""
        works, self._works = self._works, []
        for work in works:
            work.wait()

    def update(self, factor: float | None) -> None:
        """The copies of the round replace those of the one before, unless it is left out."""
        pending, self._pending = self._pending, {}
        if factor is not None:
            self._copies = pending

    def renew(self) -> None:
        """Nothing: no copy has to follow an update."""

    def held(self) -> dict[str, LocalState]:
        """The copies as parts of the committed version, by a name for each."""
        return {f"copy-of-{ward}": _described(ward, copy) for ward, copy in self._copies.items()}

    def check(self, version: int) -> tuple[int, ...]:
        """Every `CHECK_STEPS` versions, the wards whose copy differs; then all are made anew."""
        if version % CHECK_STEPS:
            return ()
        rank = self._group.rank
        own = fingerprint(_described(rank, self._remembered.tensors()))
        everyone = self._group.gather(torch.tensor(own, dtype=torch.int64)).tolist()
        differing = tuple(
            ward
            for ward, copy in self._copies.items()
            if fingerprint(_described(ward, copy)) != everyone[ward]
        )
        if self._group.gather(torch.tensor(len(differing))).any():
            self.fill()
        return differing

    def _room(self, own: Mapping[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
        return {
            ward: {name: torch.empty_like(tensor) for name, tensor in own.items()}
            for ward in self._copies
        }

    def _exchange(
        self, own: Mapping[str, torch.Tensor], room: Mapping[int, Mapping[str, torch.Tensor]]
    ) -> list[dist.Work]:
        return self._group.exchange(
            [(tensor, holder) for holder in self._holders for tensor in own.values()],
            [(tensor, ward) for ward, copy in room.items() for tensor in copy.values()],
        )


def worker_prefix(rank: int) -> str:
    """What the names of everything begin with that one worker has for itself."""
    return f"worker/{rank}/"


def worker_of(name: str) -> int:
    """The rank that has for itself what is called so."""
    return int(name.split("/")[1])


def _described(rank: int, tensors: Mapping[str, torch.Tensor]) -> LocalState:
    return LocalState({}, pieces(worker_prefix(rank), tensors), (), {"optimizer": None})
