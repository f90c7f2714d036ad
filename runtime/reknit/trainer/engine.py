"""The engine that user code holds: steps and evaluation, through any number of generations."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from reknit.arguments import check_dataset
from reknit.data.evaluation import EvaluationLoader
from reknit.data.loader import StepBatch
from reknit.errors import ConfigurationError
from reknit.job import Batch, Collate, Dataset, Engine, Loss, Transform
from reknit.layout import BatchPlan
from reknit.protocol.ranks import CopyDiffered, Evaluated, Phase
from reknit.rank.board import Moment
from reknit.trainer.gate import Vote
from reknit.trainer.step import StepResult, to_device
from reknit.trainer.timing import Stopwatch
from reknit.trainer.training import Training

_MOMENTS = {"data": Moment.DATA, "forward": Moment.FORWARD, "backward": Moment.BACKWARD}


class RankBatch(Batch):
    """A global batch: this rank's samples of it are drawn inside the step."""

    def __init__(
        self, step: int, draw: Callable[[int, BatchPlan, int], tuple[StepBatch, float]]
    ) -> None:
        self._step = step
        self.draw = draw
        """draw(step, plan, data): the samples of that place along the data axis, and the seconds
        that they were waited for."""

    @property
    def step(self) -> int:
        """The number of steps committed before this one."""
        return self._step


class TrainingEngine(Engine):
    """One rank's engine."""

    def __init__(self, training: Training) -> None:
        self.last: tuple[StepResult, Stopwatch] | None = None
        """The step that the function has been through since the last boundary."""
        self.handed_out: Batch | None = None
        """The batch that the next step is to be taken with."""
        self.leave_agreed = False
        """All ranks leave at the next boundary."""
        self.regroup_agreed = False
        """All ranks leave the generation there, and take part in the next one."""
        self._training = training

    @property
    def has_taken_step(self) -> bool:
        """Whether the batch that was handed out has been trained on."""
        return self.handed_out is None

    def train_step(self, batch: Batch) -> float:
        """Forward, backward, reduction, gate and update of one global batch.

        Raises:
            ConfigurationError: the batch is not the one that `job.batches` has just handed out.
            FloatingPointError: loss or gradient are wrong, and computing them anew did not help;
                nothing was applied.
        """
        if not isinstance(batch, RankBatch) or batch is not self.handed_out:
            raise ConfigurationError(
                "engine.train_step: takes each batch of job.batches once, in the order in which "
                "they come"
            )
        self.last = self._training.session.survive(partial(self._step, batch))
        self.handed_out = None
        result, _ = self.last
        self.leave_agreed = self.leave_agreed or bool(result.votes.leave)
        self._training.journal.advance(batch.step + 1)
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

        Raises:
            ConfigurationError: the data set is not one that samples can be drawn from by number.
        """
        check_dataset(dataset, "engine.evaluate")
        training = self._training

        def load() -> EvaluationLoader:
            return EvaluationLoader(
                dataset,
                micro=training.plan.micro,
                rank=training.group.place.data,
                num_ranks=training.group.mesh.num_data,
                seed=training.settings.seed,
                transform=transform,
                collate=collate,
                limit=limit,
            )

        return training.session.survive(partial(self._evaluate, load, loss))

    def _step(self, batch: RankBatch) -> tuple[StepResult, Stopwatch]:
        training, moments = self._training, self._training.moments
        stepper = training.stepper
        assert stepper is not None
        if stepper.version > batch.step:
            # Committed already: by a recovery, or before this rank was there.
            return stepper.results[batch.step + 1], Stopwatch()
        # What the stages of a pipeline begin, they do not begin alike.
        enter = moments.show if training.group.mesh.num_stages > 1 else moments.enter
        stopwatch = Stopwatch(
            lambda phase: enter(_MOMENTS.get(phase, Moment.REDUCE), stepper.version)
        )
        moments.begin_step()
        training.link.enter(Phase.STEP, stepper.version)
        moments.enter(Moment.DATA, stepper.version)

        def draw(rotation: int) -> StepBatch:
            rank = (training.group.place.data + rotation) % training.group.mesh.num_data
            drawn, waited = batch.draw(batch.step, training.plan, rank)
            stopwatch.add("data", waited)
            return drawn

        if training.ledger is not None and training.group.speaks:
            # Before the gate: once it is passed, this step counts even if this rank dies.
            training.ledger.record(batch.step + 1, draw(0).sample_ids)
        result = stepper.step(draw, self._vote, stopwatch)
        # Not for a step that is merely remembered: what it agreed on was done by those who took it.
        self.regroup_agreed = bool(result.votes.regroup)
        if training.cycle is not None:
            # First, as what follows may be broken off, and this step is not taken again.
            training.cycle.heard(result.votes, stepper.version)
        with stopwatch.phase("communication"):
            for ward in stepper.protection.check(stepper.version):
                training.link.tell(CopyDiffered(step=stepper.version, ward=ward))
        training.enter_function()
        stopwatch.stop()
        return result, stopwatch

    def _evaluate(self, load: Callable[[], EvaluationLoader], loss: Loss | None) -> float:
        training, stepper = self._training, self._training.stepper
        assert stepper is not None
        known = training.journal.evaluations.get(training.journal.place)
        if known is not None:
            # Others have completed it before this rank came to it.
            training.journal.evaluated(known)
            return known
        training.link.enter(Phase.EVALUATION, stepper.version)
        training.moments.enter(Moment.EVALUATE, stepper.version)
        total = torch.zeros((), dtype=torch.float64, device=training.group.device)
        try:
            with stepper.evaluating(), load() as loader, torch.no_grad():
                for micro_batch in loader:
                    training.session.check()
                    data = to_device(micro_batch.data, training.group.device)
                    value = stepper.strategy.evaluate(data, loss or training.loss)
                    if micro_batch.weight and training.group.speaks:
                        total += value.double() * micro_batch.weight
            mean = float(training.group.all_reduce(total))
        finally:
            training.link.enter(Phase.FUNCTION, stepper.version)
        training.journal.evaluated(mean)
        if training.group.rank == 0:
            name = "loss" if loss is None else str(getattr(loss, "__name__", "loss"))
            training.link.tell(Evaluated(step=stepper.version, metrics={name: mean}))
        return mean

    def _vote(self) -> Vote:
        training = self._training
        vote = Vote() if training.cycle is None else training.cycle.vote()
        link = training.link
        return replace(vote, leave=float(link.leaving), regroup=float(link.regrouping))
