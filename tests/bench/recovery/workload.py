"""The model, the data and the steps that are disturbed: 8.4 million parameters."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import Dataset

import reknit

WIDTH = 1024
DEPTH = 8
NUM_SAMPLES = 4096
CHECKPOINT_STEPS = 10
"""Between two checkpoints of the peer; Reknit gets none."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the workload; the batch is such that a step takes about 0.25 s on two cores."""

    steps: int = 100
    global_batch: int = 64
    micro: int = 16


class Noise(Dataset[torch.Tensor]):
    """Vectors that are a function of their index."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(WIDTH, generator=torch.Generator().manual_seed(index))


def make_model() -> nn.Module:
    """Eight wide layers."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(DEPTH)))


def make_optimizer(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of both contestants."""
    return torch.optim.Adam(params, lr=1e-3)


def squared_error(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """The model is to give back what it gets."""
    error: torch.Tensor = (model(batch) - batch).pow(2).mean()
    return error


def train(job: reknit.Job, config: Config) -> None:
    """The training through Reknit."""
    engine = job.engine(model=make_model, optimizer=make_optimizer, loss=squared_error)
    for batch in job.batches(Noise(), steps=config.steps):
        engine.train_step(batch)
