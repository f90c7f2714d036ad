"""The models and data that the engine is tested with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from reknit.cuts import Column, Row, TensorPlan, Vocabulary
from reknit.data.datasets import Arrays


class Transformer(nn.Module):
    """One block over 17 tokens; reads a submodule's weight outside of its forward."""

    def __init__(self, dropout: float = 0.0, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 12)
        self.positions = nn.Embedding(8, 12)
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.up = nn.Linear(12, 23)
        self.down = nn.Linear(23, 12)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(12, 17, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.dropout((q @ k.transpose(1, 2) / 12**0.5).softmax(dim=-1) @ v)
        x = x + self.dropout(self.down(torch.tanh(self.up(x))))
        return self.head(x)


class Heads(nn.Module):
    """Attention with four heads and layers that can be cut; one of those is not trained."""

    def __init__(self) -> None:
        super().__init__()
        # One row more than there are tokens, so that four ranks can divide them.
        self.embedding = nn.Embedding(20, 16)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.up = nn.Linear(16, 24)
        self.fixed = nn.Linear(16, 24)
        self.fixed.requires_grad_(False)
        self.down = nn.Linear(24, 16, bias=False)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        x = self.embedding(tokens)
        heads = (*tokens.shape, -1, 4)
        q, k, v = (p.view(heads).transpose(1, 2) for p in self.qkv(self.norm(x)).chunk(3, dim=-1))
        mixed = ((q @ k.transpose(2, 3)) / 2).softmax(dim=-1) @ v
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(*tokens.shape, -1)))
        x = x + self.dropout(self.down(torch.tanh(self.up(x)) * self.fixed(x)))
        return self.head(self.norm(x))


class Between(nn.Module):
    """Scales what is between two layers by a parameter that is not cut."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(9, 8)
        self.scale = nn.Parameter(torch.ones(1))
        self.down = nn.Linear(8, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x) * self.scale))


HEADS: TensorPlan = {
    "embedding": Vocabulary(),
    "qkv": Column(blocks=3, unit=4),
    "out": Row(),
    "up": Column(),
    "fixed": Column(),
    "down": Row(),
    "head": Column(gather=True),
}


class Reordered(nn.Module):
    """Registered first to last, used last to first; with a buffer, one frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(9, 9) for _ in range(5))
        self.scale = nn.Parameter(torch.ones(1))
        self.frozen = nn.Linear(9, 9)
        self.frozen.requires_grad_(False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
            self.mean.mul_(0.9).add_(x.detach().float().mean(dim=0), alpha=0.1)
        for layer in reversed(self.layers):
            x = torch.tanh(layer(x)) * self.scale
        return self.frozen(x)


class Scalar(nn.Module):
    """With a parameter that has no dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 9)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.scale


class Sometimes(nn.Module):
    """Uses one layer in every other forward only."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Linear(9, 9)
        self.sometimes = nn.Linear(9, 9)
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        x = torch.tanh(self.always(x))
        return self.sometimes(x) if self.count % 2 else x


def _token_loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    tokens, targets = batch
    return cross_entropy(model(tokens).flatten(0, 1).float(), targets.flatten())


def _vector_loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    return mse_loss(model(inputs).float(), targets)


class Tokens(nn.Module):
    """Tokens and their positions as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(17, 12)
        self.positions = nn.Embedding(8, 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]


class Mixer(nn.Module):
    """Hands on two tensors, and changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.up = nn.Linear(12, 12)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, total = x if isinstance(x, tuple) else (x, torch.zeros_like(x))
        total = total.add_(x)
        return x + self.dropout(torch.tanh(self.up(self.norm(x)))), total


class Last(nn.Module):
    """Logits from both tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.fixed = nn.Linear(12, 12)
        self.fixed.requires_grad_(False)
        self.head = nn.Linear(12, 17, bias=False)

    def forward(self, x: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.head(self.fixed(x[0]) + self.scale * x[1])


class Layered(nn.Module):
    """Layers in a row: tied weights, dropout, buffers, a frozen layer and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Tokens()
        self.mixers = nn.ModuleList(Mixer() for _ in range(3))
        self.last = Last()
        self.last.head.weight = self.first.tokens.weight

    def pipeline_layers(self) -> list[nn.Module]:
        return [self.first, *self.mixers, self.last]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = tokens
        for layer in self.pipeline_layers():
            x = layer(x)
        return x


def _row() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(9, 9), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(9, 9))


@dataclass(frozen=True)
class Task:
    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, list[torch.Tensor]], torch.Tensor]
    data: Callable[[], Arrays]
    groups: bool = False
    seeded: bool = False
    """The forward draws random numbers."""
    plan: TensorPlan | None = None


def _tokens() -> Arrays:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(17, (96, 9), generator=generator)
    return Arrays(tokens[:, :-1], (tokens[:, :-1] * 3 + tokens[:, 1:]) % 17)


def _vectors() -> Arrays:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(96, 9, generator=generator)
    return Arrays(inputs, (inputs * 2).sin())


def _equal_groups() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 9, bias=False), nn.Tanh(), nn.Linear(9, 9, bias=False))


TASKS = {
    "transformer": Task(Transformer, _token_loss, _tokens),
    "tied": Task(lambda: Transformer(dropout=0.2, tied=True), _token_loss, _tokens, seeded=True),
    "heads": Task(Heads, _token_loss, _tokens, seeded=True, plan=HEADS),
    "between": Task(Between, _vector_loss, _vectors, plan={"up": Column(), "down": Row()}),
    "reordered": Task(Reordered, _vector_loss, _vectors),
    "scalar": Task(Scalar, _vector_loss, _vectors),
    "empty group": Task(lambda: nn.Linear(9, 9), _vector_loss, _vectors, groups=True),
    "sometimes": Task(Sometimes, _vector_loss, _vectors),
    "groups": Task(_equal_groups, _vector_loss, _vectors, groups=True),
    "layered": Task(Layered, _token_loss, _tokens, seeded=True),
    "row": Task(_row, _vector_loss, _vectors, groups=True),
}
