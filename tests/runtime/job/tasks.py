"""Training functions of the tests, as a user would write them."""

import os
import resource
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import StepLR

import reknit
from reknit.data import Arrays


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the task, and what goes wrong in it."""

    steps: int | None = 12
    epochs: int | None = None
    num_samples: int = 96
    width: int = 8
    evaluate: bool = False
    clip: float | None = 1.0
    halve: bool = False
    """Whether the learning rate is halved every five steps."""
    fail_rank: int | None = None
    """The rank that raises; -1: every rank."""
    fail_step: int = 3
    fail_depth: int = 0
    """Modules within each other, the innermost of which raises."""
    fail_once: str | None = None
    """A file; the failure happens only as long as it does not exist."""
    is_killed: bool = False
    """Whether the rank is killed instead of raising."""
    data_file: str | None = None
    wait_for: str | None = None
    """A file; steps from `wait_step` on wait for it to appear."""
    wait_step: int = 1_000_000
    wait_at_end: str | None = None
    """A file; the last step waits for it to appear."""
    helper: bool = False
    """Whether each rank starts a process of its own."""
    full_until: str | None = None
    """A file; until it appears no other one can be written, as on a full disk."""


def network(width: int) -> nn.Module:
    """Maps (batch, 8) to (batch, 1)."""
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 1))


def squared_error(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Mean squared error."""
    inputs, targets = batch
    return mse_loss(model(inputs).float(), targets)


def dataset(config: Config) -> Arrays:
    """A smooth function of eight random numbers."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(config.num_samples, 8, generator=generator)
    if config.data_file is not None:
        inputs = (
            inputs
            + torch.frombuffer(
                bytearray(Path(config.data_file).read_bytes()), dtype=torch.uint8
            ).sum()
        )
    return Arrays(inputs, inputs.sin().sum(dim=1, keepdim=True))


class Trouble(Exception):  # noqa: N818 - what a user might call it
    """Raised by the tests' training functions."""


def cause_trouble(config: Config) -> None:
    """Raises, or ends at once, when the configuration says so."""
    if config.fail_once is not None:
        try:
            os.close(os.open(config.fail_once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    if config.is_killed:
        os.kill(os.getpid(), signal.SIGKILL)
    raise Trouble("the user's own mistake")


class Nested(nn.Module):
    """Modules within each other; the innermost one causes trouble."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner = Nested(depth - 1) if depth else None

    def forward(self, config: Config) -> None:
        """Nothing is computed."""
        if self.inner is None:
            cause_trouble(config)
        else:
            self.inner(config)


def fill_disk(full: bool) -> None:
    """Lets writes of this process fail, or succeed again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else hard, hard))


def wait_for_file(file: str | None) -> None:
    """Waits until a file exists."""
    while file is not None and not Path(file).exists():
        threading.Event().wait(0.02)


def train(job: reknit.Job, config: Config) -> None:
    """Trains a small network."""
    engine = job.engine(
        model=lambda: network(config.width),
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2),
        loss=squared_error,
        clip_grad_norm=config.clip,
        schedule=(lambda optimizer: StepLR(optimizer, 5, 0.5)) if config.halve else None,
    )
    data = dataset(config)
    for batch in job.batches(data, steps=config.steps, epochs=config.epochs):
        if batch.step == 0 and config.helper:
            subprocess.Popen(["sleep", "1000"])
        if batch.step == config.fail_step and config.fail_rank in (-1, job.rank):
            Nested(config.fail_depth)(config)
        if config.full_until is not None:
            fill_disk(not Path(config.full_until).exists())
        if batch.step >= config.wait_step:
            wait_for_file(config.wait_for)
        if batch.step + 1 == config.steps:
            wait_for_file(config.wait_at_end)
        engine.train_step(batch)
        job.state["steps seen"] = batch.step + 1
    if config.evaluate:
        engine.evaluate(data, limit=16)


def no_job() -> None:
    """Not a training function: it takes no arguments."""
