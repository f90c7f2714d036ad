"""A small convolutional net that reads scikit-learn's handwritten digits, 8 x 8 pixels each."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import reknit
from reknit.data import Arrays


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the manifest may set under `entrypoint.config`."""

    epochs: int = 10
    width: int = 16
    learning_rate: float = 2e-3
    jitter: float = 0.1
    """Standard deviation of the noise added to training images, whose pixels are in 0..1."""


def network(width: int) -> nn.Sequential:
    """Maps images (batch, 1, 8, 8) to logits (batch, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 64),
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
    """Trains on four fifths of the digits and evaluates on the rest."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    held_out = torch.arange(len(labels)) % 5 == 0
    dataset = Arrays(images[~held_out], labels[~held_out])
    held_out_data = Arrays(images[held_out], labels[held_out])

    def jitter(
        sample: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = sample
        return image + config.jitter * torch.randn(image.shape, generator=generator), label

    engine = job.engine(
        model=lambda: network(config.width),
        optimizer=lambda params: torch.optim.Adam(params, lr=config.learning_rate),
        loss=digit_loss,
    )
    for batch in job.batches(dataset, epochs=config.epochs, transform=jitter):
        engine.train_step(batch)
    error = engine.evaluate(held_out_data, loss=digit_error)
    if job.rank == 0:
        print(f"digits read wrongly: {error:.1%}")
