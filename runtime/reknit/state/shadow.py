"""The copy of another rank's shard, kept up to date by the same updates as the original."""

from collections.abc import Iterator

import torch

from reknit.state.optimizer import (
    elements,
    prepare_state,
    step,
    take_hyperparameters,
    twin,
)
from reknit.state.shard import Shard


class Shadow:
    """One ward's shard in this rank's memory, bit for bit the original.

    Args:
        ward: whose shard it is.
        own: this rank's shard, which has the same form.
        steps: whether the shadow takes the original's steps. Otherwise it has no room for a
            gradient, and is only ever filled.
    """

    def __init__(self, ward: int, own: Shard, *, steps: bool) -> None:
        masters = tuple(_room(master).requires_grad_() for master in own.masters)
        by_id = {id(old): new for old, new in zip(own.masters, masters, strict=True)}
        optimizer = twin(own.optimizer, by_id, steps=steps)
        self.shard = Shard(ward, masters, optimizer, tuple(map(_room, own.frozen)))
        self.pending = tuple(_room(master) for master in own.masters) if steps else ()
        """Where the ward's reduced gradient is received."""
        self.is_current = False
        """Whether it is a whole copy of the version that this rank is at."""

    def expect(self, own: Shard) -> list[torch.Tensor]:
        """Makes room for the ward's present state; what is to be received, in order."""
        self.is_current = False
        prepare_state(self.shard.optimizer, self.shard.masters, own.optimizer, own.masters)
        return contents(self.shard)

    def take_hyperparameters(self, original: torch.optim.Optimizer) -> None:
        """Those of the next step, from an optimizer that has not taken it yet."""
        take_hyperparameters(self.shard.optimizer, original)

    def apply(self, multiplier: float) -> None:
        """The original's step, with its pending gradient."""
        step(self.shard.optimizer, self.shard.masters, self.pending, multiplier)


def contents(shard: Shard) -> list[torch.Tensor]:
    """Everything in a shard that differs from the other ranks' shards, in a fixed order."""
    return list(_contents(shard))


def _contents(shard: Shard) -> Iterator[torch.Tensor]:
    for tensor in (*shard.masters, *elements(shard.optimizer, shard.masters), *shard.frozen):
        yield tensor.detach()


def _room(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor.detach(), memory_format=torch.contiguous_format)
