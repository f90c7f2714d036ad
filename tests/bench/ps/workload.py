"""The models, batches and counters that every contestant shares."""

import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

NUM_SERVERS = 2
NUM_WORKERS = 3
_BYTES_RECEIVED = 128
"""Where `tcpi_bytes_received` stands in Linux's `struct tcp_info`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a run."""

    model: str
    """dense or sparse."""
    synchronous: bool
    steps: int
    warm_up: int = 3
    batch: int = 16
    """Samples per worker and step."""

    @property
    def updated_bytes(self) -> int:
        """Of the parameters whose gradients and weights have to travel in a step of one worker.

        Of the table these are the rows in the batch.
        """
        model = make_model(self.model)
        if self.model == "dense":
            return sum(parameter.nbytes for parameter in model.parameters())
        rows = torch.unique(ids_of(self, 0, 0))
        head = model.head.weight.nbytes + model.head.bias.nbytes
        return len(rows) * WIDTH * 4 + head


WIDTH = 32
NUM_ROWS = 200_000
IDS_PER_SAMPLE = 64


class Dense(nn.Sequential):
    """26 MB, which two servers share evenly."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(1280, 2560, bias=False), nn.ReLU(), nn.Linear(2560, 1280, bias=False)
        )


class Sparse(nn.Module):
    """A table of 26 MB, of which a step touches about a thousand rows, and a small head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_ROWS, WIDTH, sparse=True)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(samples, ids) -> (samples, width)."""
        found: torch.Tensor = self.head(self.table(ids).mean(1))
        return found


def make_model(kind: str) -> nn.Module:
    """With the same weights in every process."""
    torch.manual_seed(0)
    return Dense() if kind == "dense" else Sparse()


def make_optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of every contestant's servers."""
    return torch.optim.SGD(parameters, lr=0.05)


def _generator(worker: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(100_000 * worker + step)


def ids_of(config: Config, worker: int, step: int) -> torch.Tensor:
    """Rows of the table that a batch needs."""
    shape = (config.batch, IDS_PER_SAMPLE)
    return torch.randint(NUM_ROWS, shape, generator=_generator(worker, step))


def compute(model: nn.Module, config: Config, worker: int, step: int) -> float:
    """Forward and backward of one batch; leaves this worker's share of the mean gradient."""
    generator = _generator(worker, step)
    if config.model == "dense":
        inputs = torch.randn(config.batch, 1280, generator=generator)
        target = torch.sin(inputs)
    else:
        inputs = ids_of(config, worker, step)
        target = torch.ones(config.batch, WIDTH)
    model.zero_grad()
    loss = mse_loss(model(inputs), target)
    # Asynchronous updates are not averaged: each is a step of its own.
    (loss / (NUM_WORKERS if config.synchronous else 1)).backward()
    return float(loss.detach())


def received_bytes() -> int:
    """What has come in through this process's open TCP connections, by the kernel's count."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            connection = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        with connection:
            if connection.family == socket.AF_INET and connection.type == socket.SOCK_STREAM:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0]
    return total


class Stopwatch:
    """Times the steps behind the warm-up."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._start = 0.0

    def step(self, number: int) -> None:
        """To be called before each step, and once after the last one."""
        if number == self._config.warm_up:
            self._start = time.perf_counter()

    def samples_per_second(self) -> float:
        """Of this worker."""
        seconds = time.perf_counter() - self._start
        return (self._config.steps - self._config.warm_up) * self._config.batch / seconds
