"""Federated averaging on scikit-learn's handwritten digits, of which each client has a few kinds.

How the digits fall on the clients is drawn from a Dirichlet distribution (Hsu, Qi and Brown,
"Measuring the Effects of Non-Identical Data Distribution", 2019): the lower `evenness`, the fewer
kinds has a client.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import reknit
from reknit.data import Arrays


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the manifest may set under `entrypoint.config`."""

    rounds: int = 30
    clients: int = 12
    evenness: float = 0.3
    """Parameter of the Dirichlet distribution; at 100 all clients have all digits alike."""
    learning_rate: float = 0.1
    evaluate_every: int = 10


def owners(labels: Sequence[int], num_clients: int, evenness: float, seed: int) -> list[int]:
    """The client of each sample: of each kind, every client gets a share drawn at random."""
    generator = np.random.default_rng(seed)
    kinds = np.asarray(labels)
    found = np.zeros(len(kinds), dtype=np.int64)
    for kind in np.unique(kinds):
        shares = generator.dirichlet([evenness] * num_clients)
        (places,) = np.nonzero(kinds == kind)
        cuts = (np.cumsum(shares)[:-1] * len(places)).astype(np.int64)
        for client, part in enumerate(np.split(places, cuts)):
            found[part] = client
    return [int(client) for client in found]


def network() -> nn.Sequential:
    """Maps images (batch, 1, 8, 8) to logits (batch, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digit_loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the labels."""
    images, labels = batch
    return cross_entropy(model(images).float(), labels)


def digit_error(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Share of digits read wrongly."""
    images, labels = batch
    return (model(images).argmax(dim=1) != labels).float().mean()


def train(job: reknit.Job, config: Config) -> None:
    """Trains on four fifths of the digits, each with its client, and evaluates on the rest."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    held_out = torch.arange(len(labels)) % 5 == 0
    dataset = Arrays(images[~held_out], labels[~held_out])
    held_out_data = Arrays(images[held_out], labels[held_out])
    engine = job.engine(
        model=network,
        optimizer=lambda params: torch.optim.SGD(params, lr=config.learning_rate),
        loss=digit_loss,
    )
    clients = owners(labels[~held_out].tolist(), config.clients, config.evenness, job.seed)
    for batch in job.batches(dataset, steps=config.rounds, clients=clients):
        engine.train_step(batch)
        if (batch.step + 1) % config.evaluate_every == 0:
            engine.evaluate(held_out_data, loss=digit_error)
    error = engine.evaluate(held_out_data, loss=digit_error)
    if job.rank == 0:
        print(f"digits read wrongly: {error:.1%}")
