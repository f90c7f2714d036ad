"""Training functions of the tests of a rank process."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.nn.functional import mse_loss

import reknit
from reknit import Column, Row
from reknit.checkpoint.files import NewFile
from reknit.checkpoint.manifest import parse_folder_name, shard_name
from reknit.data import Arrays
from reknit.rank.board import Board, Moment
from reknit.state import protection


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
    deaths: tuple[tuple[int, int, str], ...] = ()
    """(rank, step, moment): that rank dies when it comes to that moment of that step; WRITING:
    within the first write to its file of the first checkpoint from that version on."""
    graves: str = ""
    """A folder in which each death leaves a file: nobody dies twice."""
    evaluate_every: int | None = None
    hold_step: int | None = None
    hold_until: str = ""
    """Every rank waits at `hold_step` until there is a file of this name."""
    wrong: tuple[int, int, str, bool] | None = None
    """(rank, step, value, sticky): from that step on, that rank's gradient is wrong: once, or as
    long as the process lives; `value` is nan, flip (a high bit of an exponent) or a factor."""
    bad_sample: int | None = None
    """The index of a sample whose values are not numbers."""
    norm: str = "batch"
    """`layer`: a model that computes each sample by itself, the same in any world; `cut`: one whose
    layers can be cut."""
    num_clients: int | None = None
    """Owners of the samples, under federated averaging."""


Spoil: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Spoiling(nn.Module):
    """Hands on its input, and lets a test spoil what flows back through it."""

    def __init__(self, spoil: Spoil) -> None:
        super().__init__()
        self.forward = spoil


class Net(nn.Module):
    """With tied weights and a buffer that each forward changes."""

    def __init__(self, norm: str = "batch", spoil: Spoil = lambda x: x) -> None:
        super().__init__()
        self.spoil = Spoiling(spoil)
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6) if norm == "batch" else nn.LayerNorm(6)
        self.activation = nn.Tanh()
        self.dropout = nn.Dropout(0.2)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def pipeline_layers(self) -> list[nn.Module]:
        return [
            self.first,
            self.spoil,
            self.norm,
            self.activation,
            self.dropout,
            self.second,
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(self.activation(self.norm(self.spoil(self.first(x))))))


class CutNet(nn.Module):
    """With layers for a plan, a buffer that each forward changes, and one frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6)
        self.fixed = nn.Linear(6, 8, bias=False).requires_grad_(False)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.norm(self.down(torch.tanh(self.up(x)) + self.fixed(x))))
        return self.last(x)[:, :6]


CUTS = {
    "up": Column(),
    "fixed": Column(),
    "down": Row(),
    "last": Column(gather=True),
}


def data(bad_sample: int | None = None) -> Arrays:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(40, 6, generator=generator)
    if bad_sample is not None:
        inputs[bad_sample] = torch.nan
    return Arrays(inputs, inputs.sin())


def squared_error(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    return mse_loss(model(inputs), targets)


def largest_error(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    return (model(inputs) - targets).abs().max()


def wait_for_file(file: Path) -> None:
    never = threading.Event()
    while not file.exists():
        never.wait(0.01)


def prepare_deaths(job: reknit.Job, config: Config) -> None:
    """Lets this process kill itself at the moments that the configuration names."""
    enter, write = Board.enter, NewFile.write

    def come_to(moment: str, is_due: Callable[[int], bool]) -> None:
        for rank, step, at_moment in config.deaths:
            grave = Path(config.graves) / f"{rank}-{step}-{at_moment}"
            if (job.rank, moment) == (rank, at_moment) and is_due(step) and not grave.exists():
                grave.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    def enter_or_die(board: Board, moment: Moment, step: int) -> None:
        enter(board, moment, step)
        come_to(moment.name, lambda at_step: at_step == step)

    def write_or_die(file: NewFile, data: bytes | memoryview) -> None:
        half = len(data) // 2
        write(file, data[:half])
        named = parse_folder_name(file.path.parent.name)
        if named is not None and file.path.name == shard_name(job.rank):
            file._file.flush()
            come_to("WRITING", lambda version: version <= named[0])
        write(file, data[half:])

    if config.deaths:
        Board.enter = enter_or_die  # type: ignore[method-assign]
        NewFile.write = write_or_die  # type: ignore[method-assign]


class Corruption:
    """Makes one element of what flows back wrong, on the configured rank from a step on."""

    def __init__(self, job: reknit.Job, config: Config) -> None:
        self.step = 0
        self._job = job
        self._config = config
        self._mark = Path(config.graves) / "wrong"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The same; what flows back through it into the first layer may be wrong."""
        if self._config.wrong is not None and x.requires_grad:
            x.register_hook(self._corrupt)  # type: ignore[no-untyped-call]
        return x

    def _corrupt(self, gradient: torch.Tensor) -> torch.Tensor | None:
        assert self._config.wrong is not None
        rank, step, value, sticky = self._config.wrong
        known = self._mark.read_text() if self._mark.exists() else None
        strikes = known is None or (sticky and known == str(os.getpid()))
        if self._job.rank != rank or self.step < step or not strikes:
            return None
        self._mark.write_text(str(os.getpid()))
        changed = gradient.clone()
        if value == "flip":
            changed.view(torch.int32).view(-1)[0] ^= 1 << 30
        else:
            changed.view(-1)[0] = float(value)
        return changed


def train(job: reknit.Job, config: Config) -> None:
    """Trains, logs, evaluates, and counts the steps after each."""
    prepare_deaths(job, config)
    factor = torch.ones(())
    corruption = Corruption(job, config)
    engine = job.engine(
        model=lambda: CutNet() if config.norm == "cut" else Net(config.norm, corruption),
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2),
        loss=lambda model, batch: squared_error(model, batch) * factor,
        clip_grad_norm=1.0,
        tensor_plan=CUTS if config.norm == "cut" else None,
    )
    samples = data(config.bad_sample)
    clients = config.num_clients and [sample % config.num_clients for sample in range(len(samples))]
    for batch in job.batches(samples, steps=config.steps, clients=clients or None):
        corruption.step = batch.step
        if batch.step == config.fail_step:
            if config.fail_rank == job.rank:
                raise ArithmeticError("the user's own mistake")
            if config.break_folder is not None and job.rank == 0:
                Path(config.break_folder).rename(config.break_folder + ".away")
                Path(config.break_folder).touch()
            if config.poison:
                factor.fill_(torch.inf)
        if batch.step == config.hold_step:
            wait_for_file(Path(config.hold_until))
        loss = engine.train_step(batch)
        job.log(twice=2 * loss)
        job.state["seen"] = int(job.state.get("seen", 0)) + 1  # type: ignore[arg-type]
        if config.evaluate_every and job.state["seen"] % config.evaluate_every == 0:
            engine.evaluate(data(), limit=8)
            engine.evaluate(data(), loss=largest_error, limit=8)
    engine.evaluate(data(), limit=10)
    engine.evaluate(data(), loss=largest_error)
    assert job.state["seen"] == config.steps


def spoil_a_copy(job: reknit.Job, config: Config) -> None:
    """Trains while a copy of a shard that `fail_rank` keeps loses a bit in `fail_step`."""
    check = protection.Protection.check

    def spoiled(copies: protection.Protection, version: int) -> tuple[int, ...]:
        if (job.rank, version) == (config.fail_rank, config.fail_step):
            copies.shadows[0].shard.masters[0].detach().view(torch.int32).view(-1)[0] ^= 1
        return check(copies, version)

    protection.Protection.check = spoiled  # type: ignore[method-assign]
    protection.CHECK_STEPS = 2  # type: ignore[misc]
    train(job, replace(config, fail_rank=None))


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
