"""The engine that user code holds: steps and evaluation, told to the agent."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from reknit.comm.group import RankGroup
from reknit.data.evaluation import EvaluationLoader
from reknit.data.ledger import Ledger
from reknit.data.loader import StepBatch
from reknit.errors import ConfigurationError
from reknit.job import Batch, Collate, Dataset, Engine, Loss, Transform
from reknit.layout import BatchPlan
from reknit.protocol.ranks import Evaluated, FromRank, Phase
from reknit.trainer.checkpointing import CheckpointCycle
from reknit.trainer.gate import Vote
from reknit.trainer.step import Stepper, StepResult, to_device
from reknit.trainer.timing import Stopwatch


class RankBatch(Batch):
    """A global batch: this rank's samples of it are drawn inside the step."""

    def __init__(self, step: int, draw: Callable[[], tuple[StepBatch, float]]) -> None:
        self._step = step
        self.draw = draw
        """The samples, and the seconds that they were waited for; to be called once."""

    @property
    def step(self) -> int:
        """The number of steps committed before this one."""
        return self._step


class TrainingEngine(Engine):
    """One rank's engine.

    Args:
        stepper: makes steps out of the strategy's parts.
        loss: the training loss.
        cycle: the checkpoints; None if the job writes none.
        leaving: whether this rank has been told to leave.
        tell: sends a message to the agent.
        enter: declares what the rank is doing now.
    """

    def __init__(
        self,
        stepper: Stepper,
        loss: Loss,
        group: RankGroup,
        plan: BatchPlan,
        *,
        seed: int,
        cycle: CheckpointCycle | None,
        ledger: Ledger | None,
        leaving: Callable[[], bool],
        tell: Callable[[FromRank], None],
        enter: Callable[[Phase], None],
    ) -> None:
        self.stepper = stepper
        self.last: tuple[StepResult, Stopwatch] | None = None
        """The step committed since the last boundary."""
        self.leave_agreed = False
        """All ranks leave at the next boundary."""
        self._loss = loss
        self._group = group
        self._plan = plan
        self._seed = seed
        self._cycle = cycle
        self._ledger = ledger
        self._leaving = leaving
        self._tell = tell
        self._enter = enter

    @property
    def version(self) -> int:
        """Steps committed."""
        return self.stepper.version

    def train_step(self, batch: Batch) -> float:
        """Forward, backward, reduction, gate and update of one global batch.

        Raises:
            ConfigurationError: the batch is not the one that `job.batches` has just handed out.
            FloatingPointError: loss or gradient are not finite; nothing was applied.
        """
        if not isinstance(batch, RankBatch) or batch.step != self.version:
            raise ConfigurationError(
                "engine.train_step: takes each batch of job.batches once, in the order in which "
                "they come"
            )
        stopwatch = Stopwatch()
        drawn, waited = batch.draw()
        stopwatch.add("data", waited)
        result = self.stepper.step(drawn, self._vote, stopwatch)
        if self._ledger is not None:
            self._ledger.record(self.version, drawn.sample_ids)
        if self._cycle is not None:
            self._cycle.heard(result.votes, self.version)
        self.leave_agreed = self.leave_agreed or bool(result.votes.leave)
        stopwatch.stop()
        self.last = (result, stopwatch)
        return result.loss

    def evaluate(
        self,
        dataset: Dataset,
        *,
        loss: Loss | None = None,
        transform: Transform | None = None,
        collate: Collate | None = None,
        limit: int | None = None,
    ) -> float:
        """Mean of `loss` over the first `limit` samples, the same figure on every rank.

        Rank 0 tells it under the name of the function, that of the training loss as `loss`.
        """
        loader = EvaluationLoader(
            dataset,
            micro=self._plan.micro,
            rank=self._group.rank,
            num_ranks=self._group.world_size,
            seed=self._seed,
            transform=transform,
            collate=collate,
            limit=limit,
        )
        total = torch.zeros((), dtype=torch.float64, device=self._group.device)
        self._enter(Phase.EVALUATION)
        try:
            with self.stepper.evaluating(), loader, torch.no_grad():
                for micro_batch in loader:
                    value = self._evaluate_one(micro_batch.data, loss)
                    if micro_batch.weight:
                        total += value.double() * micro_batch.weight
        finally:
            self._enter(Phase.STEP)
        mean = float(self._group.all_reduce(total))
        if self._group.rank == 0:
            name = "loss" if loss is None else str(getattr(loss, "__name__", "loss"))
            self._tell(Evaluated(step=self.version, metrics={name: mean}))
        return mean

    def _evaluate_one(self, data: Any, loss: Loss | None) -> torch.Tensor:
        data = to_device(data, self._group.device)
        return self.stepper.strategy.evaluate(data, loss or self._loss)

    def _vote(self) -> Vote:
        vote = Vote() if self._cycle is None else self._cycle.vote()
        return replace(vote, leave=float(self._leaving()))
