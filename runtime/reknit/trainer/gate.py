"""The gate: one small all-reduce per step, after which every rank knows the same.

Each rank puts in what it has; the sums decide, on every rank alike, whether the update is applied,
what the loss was, whether to leave, and how a checkpoint under way goes on.
"""

from dataclasses import dataclass, fields
from typing import Self

import torch

from reknit.comm.group import RankGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What one rank puts in, or the sum over all ranks. Flags are 0 or 1 per rank."""

    loss: float = 0.0
    """Weighted losses of the rank's micro-batches; the sum is the mean over the global batch.

    Of ranks that compute on the same micro-batches one alone puts in what is not 0.
    """
    square: float = 0.0
    """Square of the gradient norm of the rank's share, multiplied by the loss scale."""
    skip: float = 0.0
    """All ranks have found that the update is to be left out."""
    leave: float = 0.0
    """Told to leave."""
    regroup: float = 0.0
    """Told to leave the generation and to stay."""
    due: float = 0.0
    """Rank 0 only: by its clock a checkpoint is due."""
    durable: float = 0.0
    """The rank's part of the checkpoint under way is durable."""
    failed: float = 0.0
    """The rank could not write its part, or rank 0 could not commit."""
    committed: float = 0.0
    """Rank 0 only: the checkpoint under way is committed."""

    def figures(self) -> dict[str, float]:
        """The numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_tensor(self, device: torch.device) -> torch.Tensor:
        """The numbers in FP64, as NCCL and gloo can add them."""
        return torch.tensor(list(self.figures().values()), dtype=torch.float64, device=device)

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> Self:
        """What `to_tensor` gave, or a sum of such tensors."""
        names = [field.name for field in fields(cls)]
        return cls(**dict(zip(names, tensor.tolist(), strict=True)))


def exchange(vote: Vote, group: RankGroup) -> Vote:
    """The sum of all ranks' votes; blocks until every rank has voted."""
    return Vote.from_tensor(group.all_reduce(vote.to_tensor(group.device)))


def clip_factor(norm: float, largest: float | None) -> float:
    """What the gradient is multiplied by so that its norm is at most `largest`.

    As `torch.nn.utils.clip_grad_norm_` does it.
    """
    return 1.0 if largest is None else min(1.0, largest / (norm + 1e-6))
