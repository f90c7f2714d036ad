"""What one rank alone holds of the state, where a strategy divides it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Shard:
    """The tensors of one rank, or a copy of them."""

    rank: int
    """Whose they are."""
    masters: tuple[torch.Tensor, ...]
    """The tensors that the optimizer updates, flat, in a fixed order."""
    optimizer: torch.optim.Optimizer
    """Has the masters in its parameter groups, and its state by them."""
    frozen: tuple[torch.Tensor, ...] = ()
    """Parts of parameters that are not trained but divided all the same."""
