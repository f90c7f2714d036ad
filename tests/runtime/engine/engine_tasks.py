"""Training functions of the tests of a rank process."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

import reknit
from reknit.data import Arrays


@dataclass(frozen=True, kw_only=True)
class Config:
    """Length of the run, and what happens in it."""

    steps: int = 8
    fail_rank: int | None = None
    fail_step: int = 3
    break_folder: str | None = None
    """Turned into a file at `fail_step`, so that nothing can be written to it any more."""
    poison: bool = False
    """Makes the loss infinite from `fail_step` on."""


class Net(nn.Module):
    """With tied weights and a buffer that each forward changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.2)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(torch.tanh(self.norm(self.first(x)))))


def data() -> Arrays:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(40, 6, generator=generator)
    return Arrays(inputs, inputs.sin())


def squared_error(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    return mse_loss(model(inputs), targets)


def largest_error(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    return (model(inputs) - targets).abs().max()


def train(job: reknit.Job, config: Config) -> None:
    """Trains, logs, evaluates, and counts the steps after each."""
    factor = torch.ones(())
    engine = job.engine(
        model=Net,
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2),
        loss=lambda model, batch: squared_error(model, batch) * factor,
        clip_grad_norm=1.0,
    )
    for batch in job.batches(data(), steps=config.steps):
        if batch.step == config.fail_step:
            if config.fail_rank == job.rank:
                raise ArithmeticError("the user's own mistake")
            if config.break_folder is not None and job.rank == 0:
                Path(config.break_folder).rename(config.break_folder + ".away")
                Path(config.break_folder).touch()
            if config.poison:
                factor.fill_(torch.inf)
        loss = engine.train_step(batch)
        job.log(twice=2 * loss)
        job.state["seen"] = int(job.state.get("seen", 0)) + 1  # type: ignore[arg-type]
    engine.evaluate(data(), limit=10)
    engine.evaluate(data(), loss=largest_error)
    assert job.state["seen"] == config.steps


def fail_in_forward(job: reknit.Job) -> None:
    """Raises deep inside of the training step."""

    class Broken(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.broken(super().forward(x))

        def broken(self, x: torch.Tensor) -> torch.Tensor:
            raise ArithmeticError(f"a mean of {x.mean():.0f}")

    engine = job.engine(
        model=Broken, optimizer=lambda params: torch.optim.SGD(params), loss=squared_error
    )
    for batch in job.batches(data(), steps=2):
        engine.train_step(batch)


def skip_a_batch(job: reknit.Job) -> None:
    """Does not train on what it is given."""
    job.engine(model=Net, optimizer=lambda params: torch.optim.SGD(params), loss=squared_error)
    for _ in job.batches(data(), steps=2):
        pass


def leave_the_process(job: reknit.Job) -> None:
    """Ends the process in its own way."""
    raise SystemExit(7)


def die(job: reknit.Job, config: Config) -> None:
    """Rank 1 ends without a word while rank 0 waits for it."""
    engine = job.engine(
        model=Net, optimizer=lambda params: torch.optim.SGD(params), loss=squared_error
    )
    for batch in job.batches(data(), steps=config.steps):
        if job.rank == 1 and batch.step == config.fail_step:
            os._exit(9)
        engine.train_step(batch)
