"""Shadows of all shards: which rank sends what to which, and when (design §6).

Instead of sending its state after each step, a rank sends its reduced gradient before: a third of
the traffic or less, and the copy is as new as the original when the step is committed. The idea is
that of Checkmate (arXiv 2507.13522) and GoCkpt (arXiv 2511.07035). The same operations on the same
numbers give the same bits.
"""

import json
import zlib
from collections.abc import Sequence
from typing import Final

import torch
import torch.distributed as dist

from reknit.comm.group import RankGroup
from reknit.state.description import LocalState
from reknit.state.shadow import Shadow, contents
from reknit.state.shard import Shard
from reknit.strategies.base import Sharded

CHECK_STEPS: Final = 200
"""Versions between two comparisons of copies with originals, each of which reads all of both."""


class Protection:
    """This rank's part in the protection of all shards.

    Args:
        group: the ranks.
        strategy: has this rank's shard.
        holders: the ranks that keep a copy of this rank's shard.
        wards: the ranks of whose shards this one keeps copies.

    An optimizer that cannot be followed (`Sharded.is_shadowable`) is copied after each step. A step
    is lost if a rank dies between its gate and the end of that.
    """

    def __init__(
        self,
        group: RankGroup,
        strategy: Sharded,
        *,
        holders: Sequence[int],
        wards: Sequence[int],
    ) -> None:
        self._group = group
        self._strategy = strategy
        self._holders = tuple(holders)
        self._follows = strategy.is_shadowable
        own = strategy.shard
        self.shadows = tuple(Shadow(ward, own, steps=self._follows) for ward in wards)
        self._works: list[dist.Work] = []

    def fill(self) -> None:
        """Takes over the present state of all originals; all ranks together.

        Optimizer state that does not exist yet is not sent: the first steps create it alike.
        """
        self._fill(self.shadows, self._holders)

    def begin(self) -> None:
        """Begins to send the reduced gradient, which may be read meanwhile but not changed."""
        if not self._follows:
            return
        for shadow in self.shadows:
            # Before the original's step: a class may count in its parameter groups.
            shadow.take_hyperparameters(self._strategy.optimizer)
        pending = [(shadow.shard.rank, shadow.pending) for shadow in self.shadows]
        self._works = self._exchange(self._strategy.reduced(), self._holders, pending)

    def prepare(self) -> None:
        """Waits until what `begin` began is done: for all wards and holders of this rank."""
        # References to them would keep the group's connections open after its end.
        works, self._works = self._works, []
        for work in works:
            work.wait()

    def update(self, factor: float | None) -> None:
        """What `apply(factor)` does to the shards of the wards; None leaves the update out.

        Communicates with nobody.
        """
        if factor is None:
            return
        for shadow in self.shadows:
            if self._follows:
                shadow.apply(self._strategy.multiplier(factor))
            else:
                shadow.is_current = False

    def renew(self) -> None:
        """Copies what could not follow the update; all ranks together, after it."""
        if not self._follows:
            self.fill()

    def held(self) -> dict[str, LocalState]:
        """The copies as parts of the present version, by a name for each."""
        return {
            f"copy-of-{shadow.shard.rank}": self._described(shadow.shard)
            for shadow in self.shadows
            if shadow.is_current
        }

    def check(self, version: int) -> tuple[int, ...]:
        """Every `CHECK_STEPS` versions, the wards whose copy differs; that is made anew.

        All ranks together.
        """
        if version % CHECK_STEPS:
            return ()
        differing = self.verify()
        wrong = [shadow for shadow in self.shadows if shadow.shard.rank in differing]
        flags = [shadow.shard.rank if shadow in wrong else -1 for shadow in self.shadows]
        everyone = self._group.gather(torch.tensor(flags, dtype=torch.int64)).tolist()
        holders = [holder for holder in self._holders if self._group.rank in everyone[holder]]
        self._fill(wrong, holders)
        return differing

    def verify(self) -> tuple[int, ...]:
        """The wards whose copy differs from its original; all ranks together."""
        own = fingerprint(self._described(self._strategy.shard))
        everyone = self._group.gather(torch.tensor(own, dtype=torch.int64)).tolist()
        return tuple(
            shadow.shard.rank
            for shadow in self.shadows
            if fingerprint(self._described(shadow.shard)) != everyone[shadow.shard.rank]
        )

    def _described(self, shard: Shard) -> LocalState:
        return self._strategy.layout_of(shard).describe(shard.rank, self._group.world_size)

    def _fill(self, shadows: Sequence[Shadow], holders: Sequence[int]) -> None:
        """Takes over the state of these shadows' originals, and sends that of the own shard."""
        own = self._strategy.shard
        expected = [(shadow.shard.rank, shadow.expect(own)) for shadow in shadows]
        for work in self._exchange(contents(own), holders, expected):
            work.wait()
        for shadow in shadows:
            shadow.is_current = True

    def _exchange(
        self,
        own: Sequence[torch.Tensor],
        holders: Sequence[int],
        expected: Sequence[tuple[int, Sequence[torch.Tensor]]],
    ) -> list[dist.Work]:
        """Sends `own` to holders, and receives as many tensors from each ward."""
        return self._group.exchange(
            [(tensor, holder) for holder in holders for tensor in own],
            [(tensor, ward) for ward, tensors in expected for tensor in tensors],
        )


def fingerprint(state: LocalState) -> int:
    """A number that is another one if a single bit of the shard differs.

    Buffers have no part in it: they are no shard's, and change during a step.
    """
    sums = [
        int(piece.data.view(_INTEGERS[piece.data.element_size()]).sum(dtype=torch.int64))
        for piece in state.pieces
        if not piece.name.startswith("buffer/")
    ]
    return zlib.crc32(json.dumps([sums, state.scalars["optimizer"]], sort_keys=True).encode())


_INTEGERS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
