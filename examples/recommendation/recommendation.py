"""Recommendation by learned vectors: who likes what, with tables too sparse for whole gradients.

The data is made up, but from a public distribution: how often items are chosen follows Zipf's law,
as in most shops and libraries. Whether a user likes an item depends on hidden vectors of both.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import reknit
from reknit.data import Arrays


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the manifest may set under `entrypoint.config`."""

    steps: int = 400
    num_users: int = 500
    num_items: int = 2000
    num_ratings: int = 60_000
    width: int = 16
    """Elements of each learned vector."""
    learning_rate: float = 3e-2
    exponent: float = 1.1
    """Of Zipf's law: item k is chosen in proportion to k to the power of minus this."""
    data_seed: int = 0


class Recommender(nn.Module):
    """Maps pairs (user, item), int64 of shape (batch, 2), to logits (batch,)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.users = nn.Embedding(config.num_users, config.width, sparse=True)
        self.items = nn.Embedding(config.num_items, config.width, sparse=True)
        self.head = nn.Sequential(
            nn.Linear(3 * config.width, 32),
            nn.ReLU(),
            nn.Linear(32, 1),
        )

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """The logit of "this user likes this item"."""
        user, item = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        logits: torch.Tensor = self.head(torch.cat([user, item, user * item], dim=1))
        return logits.squeeze(1)


def ratings(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs (user, item) of shape (ratings, 2), and 1.0 where the user likes the item."""
    generator = torch.Generator().manual_seed(config.data_seed)
    rank = torch.arange(1, config.num_items + 1, dtype=torch.float64)
    popularity = rank.pow(-config.exponent)
    items = torch.multinomial(popularity, config.num_ratings, replacement=True, generator=generator)
    users = torch.randint(config.num_users, (config.num_ratings,), generator=generator)
    tastes = torch.randn(config.num_users, 2, generator=generator)
    kinds = torch.randn(config.num_items, 2, generator=generator)
    agreement = (tastes[users] * kinds[items]).sum(dim=1)
    noise = 0.3 * torch.randn(config.num_ratings, generator=generator)
    return torch.stack([users, items], dim=1), (agreement + noise > 0).float()


def rating_loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of likes."""
    pairs, likes = batch
    return binary_cross_entropy_with_logits(model(pairs).float(), likes)


def rating_error(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Share of likes guessed wrongly."""
    pairs, likes = batch
    return ((model(pairs) > 0).float() != likes).float().mean()


def train(job: reknit.Job, config: Config) -> None:
    """Trains on nine tenths of the ratings and evaluates on the rest."""
    pairs, likes = ratings(config)
    held_out = torch.arange(len(likes)) % 10 == 0
    engine = job.engine(
        model=lambda: Recommender(config),
        optimizer=lambda params: torch.optim.Adam(params, lr=config.learning_rate),
        loss=rating_loss,
    )
    for batch in job.batches(Arrays(pairs[~held_out], likes[~held_out]), steps=config.steps):
        engine.train_step(batch)
    error = engine.evaluate(Arrays(pairs[held_out], likes[held_out]), loss=rating_error)
    if job.rank == 0:
        print(f"likes guessed wrongly: {error:.1%}")
