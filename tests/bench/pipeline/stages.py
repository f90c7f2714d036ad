"""One rank of the pipeline that is measured: its stages wait where real ones would compute."""

import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from reknit.comm.group import RankGroup
from reknit.layout import Degrees, PipelineSchedule, Precision
from reknit.mesh import Axis
from reknit.pipeline.executor import Executor
from reknit.pipeline.schedule import actions, bubble
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.ranks import Assign
from reknit.strategies.base import Pass
from reknit.trainer.timing import Stopwatch

WIDTH = 1024
"""Numbers that a stage hands on for each micro-batch."""


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        time.sleep(2 * ctx.seconds)
        return gradients[0], None


class Waiting(nn.Module):
    """A stage whose backward pass takes twice as long as its forward pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self._seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input, after a while."""
        waited: torch.Tensor = _Wait.apply(x * self.weight, self._seconds)
        return waited


def mean(model: nn.Module, data: torch.Tensor) -> torch.Tensor:
    """The loss."""
    output: torch.Tensor = model(data)
    return output.mean()


@dataclass(frozen=True)
class Measured:
    """What is measured."""

    schedule: PipelineSchedule
    per_rank: int
    num_ranks: int
    num_micro_batches: int
    seconds: float
    """That the forward pass of a rank's stages takes together."""
    steps: int

    @property
    def formula(self) -> float:
        """The bubble that is expected."""
        return bubble(self.schedule, self.num_ranks, self.per_rank, self.num_micro_batches)


def run(
    rank: int,
    listener: socket.socket | None,
    endpoint: Endpoint,
    cases: Sequence[Measured],
    answer: Connection,
) -> None:
    """Goes through some steps of each case.

    Args:
        rank: place along the pipeline.
        listener: on rank 0 the listening socket of `endpoint`.
        endpoint: of the rendezvous store.
        cases: what is measured, with the same number of ranks.
        answer: takes for each case a list of (seconds of the step, seconds busy).
    """
    torch.set_num_threads(1)
    num_ranks = cases[0].num_ranks
    group = RankGroup(
        Assign(
            generation=Generation(incarnation=1, counter=1),
            rank=rank,
            world_size=num_ranks,
            local_rank=rank,
            local_world_size=num_ranks,
            group_rank=0,
            store=endpoint,
        ),
        device=torch.device("cpu"),
        degrees=Degrees(pipeline=num_ranks),
        store_listener=listener,
    )
    for case in cases:
        answer.send(list(_steps(group, case)))
    group.barrier()
    group.close()


def _steps(group: RankGroup, case: Measured) -> Iterator[tuple[float, float]]:
    num_stages = case.num_ranks * case.per_rank
    whole = nn.Sequential(*(Waiting(case.seconds / case.per_rank) for _ in range(num_stages)))
    executor = Executor(
        {stage: [whole[stage]] for stage in range(group.rank, num_stages, case.num_ranks)},
        num_stages,
        group.along(Axis.PIPELINE),
        whole,
        mean,
        Precision.FP32,
    )
    mine = actions(case.schedule, group.rank, case.num_ranks, case.per_rank, case.num_micro_batches)
    passes = [Pass(_data, 1.0, lambda: None) for _ in range(case.num_micro_batches)]
    for step in range(case.steps + 1):
        group.barrier()
        start = time.perf_counter()
        stopwatch = Stopwatch()
        executor.run(mine, passes, stopwatch, lambda _number, _loss: None)
        group.barrier()
        seconds = time.perf_counter() - start
        # The first backward pass of a process imports what torch has not needed before.
        if step > 0:
            split = stopwatch.split()
            yield seconds, split["forward"] + split["backward"]


def _data() -> torch.Tensor:
    return torch.ones(WIDTH)


def waited(ranks: list[list[tuple[float, float]]]) -> float:
    """The share of a step in which ranks wait, from what each rank has told: the median step's."""
    return statistics.median(
        1.0 - statistics.fmean(busy for _, busy in step) / max(seconds for seconds, _ in step)
        for step in zip(*ranks, strict=True)
    )
