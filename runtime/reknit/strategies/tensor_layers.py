"""Linear layers and embeddings of which each rank computes a part, as they are cut in place.

A column layer takes whole inputs and gives some outputs; a row layer takes those and gives whole
outputs (Shoeybi et al., "Megatron-LM", 2019, section 3). Between the two each rank has activations
of its own; everywhere else all ranks have the same, bit for bit, and compute the same with them.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import embedding, linear

from reknit.cuts import Column, Cut, Row


class Axis(Protocol):
    """The ranks that divide layers among them."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def place(self) -> int:
        """Which of them this is."""
        ...

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over these ranks, the same bits on each; may be done in place."""
        ...

    def join(self, tensor: torch.Tensor) -> torch.Tensor:
        """What each of them has, one after the other along the last dimension."""
        ...


def forward_of(module: nn.Module, cut: Cut, axis: Axis) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a module computes once its parameters are this rank's part of them."""
    if isinstance(cut, Column):
        assert isinstance(module, nn.Linear)
        return _column(module, axis, gathers=cut.gather)
    if isinstance(cut, Row):
        assert isinstance(module, nn.Linear)
        return _row(module, axis)
    assert isinstance(module, nn.Embedding)
    return _vocabulary(module, axis)


def _column(
    module: nn.Linear, axis: Axis, *, gathers: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        own = linear(_Spread.apply(x, axis), module.weight, module.bias)
        return _Joined.apply(own, axis) if gathers else own

    return forward


def _row(module: nn.Linear, axis: Axis) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = _Summed.apply(linear(x, module.weight), axis)
        return whole if module.bias is None else whole + module.bias.to(whole.dtype)

    return forward


def _vocabulary(module: nn.Embedding, axis: Axis) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(tokens: torch.Tensor) -> torch.Tensor:
        num_rows = len(module.weight)
        own = tokens - axis.place * num_rows
        foreign = (own < 0) | (own >= num_rows)
        padding = module.padding_idx
        if padding is not None:
            foreign = foreign | (tokens == padding)
        found = embedding(own.masked_fill(foreign, 0), module.weight)
        found = found.masked_fill(foreign.unsqueeze(-1), 0.0)
        if padding is not None and padding // num_rows == axis.place:
            # It counts, but is not trained.
            row = module.weight[padding % num_rows].detach()
            found = torch.where((tokens == padding).unsqueeze(-1), row, found)
        whole: torch.Tensor = _Summed.apply(found, axis)
        return whole

    return forward


class _Spread(torch.autograd.Function):
    """Every rank goes on with the same, and gets the sum of what flows back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _sum(gradient, ctx.axis), None


class _Summed(torch.autograd.Function):
    """The sum of what the ranks have; what flows back is the same on each."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        del ctx
        return _sum(x, axis)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        del ctx
        return gradient, None


class _Joined(torch.autograd.Function):
    """All ranks' outputs, one after the other; its own part flows back to each."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.start, ctx.width = axis.place * x.shape[-1], x.shape[-1]
        return axis.join(x.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient.narrow(-1, ctx.start, ctx.width), None


def _sum(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    """In FP32, whatever the activations are in."""
    total = x.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return axis.add(total).to(x.dtype)
