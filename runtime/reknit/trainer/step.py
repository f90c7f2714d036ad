"""One training step: compute, reduce, pass the gate, apply."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from reknit.comm.group import RankGroup
from reknit.data.generators import seed_generators
from reknit.data.loader import MicroBatch, StepBatch
from reknit.data.seeds import micro_batch_seed
from reknit.layout import BatchPlan, Precision
from reknit.numbers.evidence import Evidence
from reknit.numbers.limits import NormHistory, breach
from reknit.numbers.verdict import Verdict
from reknit.protocol.base import Json
from reknit.protocol.settings import NumberSettings
from reknit.rank.board import Moment
from reknit.state.description import LocalState, StateSource
from reknit.strategies.base import Pass, Recipe, Strategy, persistent_buffers
from reknit.strategies.scaling import LossScale, ScalePolicy
from reknit.trainer.errors import WrongNumbersError
from reknit.trainer.gate import Vote, clip_factor, exchange
from reknit.trainer.inquiry import Inquiry, Next
from reknit.trainer.moments import Moments, NoMoments
from reknit.trainer.protection import NoProtection, Protecting
from reknit.trainer.schedule import Schedule
from reknit.trainer.timing import Stopwatch


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to, the same on every rank but for the times."""

    loss: float
    """Not a number where it was wrong and the update was left out."""
    grad_norm: float
    """Before clipping; infinite in a step that was left out, not a number if nobody knows it."""
    learning_rate: float
    """Of the update that was applied or left out."""
    loss_scale: float | None
    """None unless the precision is FP16."""
    skipped: bool
    """The update was left out: an overflow, or wrong numbers; the step counts all the same."""
    votes: Vote


class Attempt:
    """How far the step that leads to the next version has come on this rank."""

    def __init__(self, buffers: dict[str, torch.Tensor]) -> None:
        self.buffers = buffers
        """Copies from before the forward pass changed them."""
        self.prepared = False
        """Its gradient is reduced, and the copies of shards can follow."""
        self.votes: Vote | None = None
        """The outcome of its gate, once that is known."""
        self.copies_updated = False


class Stepper:
    """Turns a strategy's micro-steps into whole steps with one outcome on all ranks."""

    def __init__(
        self,
        strategy: Strategy,
        recipe: Recipe,
        group: RankGroup,
        plan: BatchPlan,
        *,
        seed: int,
        precision: Precision,
        policy: ScalePolicy,
        numbers: NumberSettings | None = None,
        moments: Moments | None = None,
    ) -> None:
        self.strategy = strategy
        self._moments = moments or NoMoments()
        self.version = 0
        """Steps committed."""
        self._num_updates = 0
        self._clip = None if strategy.clips else recipe.clip_grad_norm
        self._group = group
        self._plan = plan
        self._seed = seed
        self._policy = policy
        self._scale = LossScale(policy.initial) if precision is Precision.FP16 else None
        self._schedule = Schedule(recipe.schedule, strategy.optimizer)
        strategy.updated = self._gather
        self._has_buffers = bool(persistent_buffers(strategy.model))
        self._numbers = numbers or NumberSettings()
        self._norms = NormHistory()
        self._evidence = Evidence()
        self._evidence.watch(strategy)
        self.protection: Protecting = NoProtection()
        """The copies of other ranks' shards that this one keeps."""
        self.found: Callable[[Verdict], None] = lambda _: None
        """Is told of wrong numbers that the newest version is free of."""
        self.attempt: Attempt | None = None
        """The step under way."""
        self.results: dict[int, StepResult] = {}
        """Of the latest steps, by the version that they led to."""

    def step(
        self,
        draw: Callable[[int], StepBatch],
        vote: Callable[[], Vote],
        stopwatch: Stopwatch,
    ) -> StepResult:
        """Runs and commits one step.

        Args:
            draw: the micro-batches of the rank that is so many places further on; 0 is this one.
            vote: what this rank has to say at the gate, besides loss and norm.
            stopwatch: gets the times.

        Raises:
            FloatingPointError: loss or gradient are wrong, and computing them anew did not help;
                nothing was applied.
            WrongNumbersError: this rank, and no other one, computes wrong numbers.
        """
        inquiry = Inquiry(self._group, self._evidence, self._numbers.on_bad_data)
        while True:
            attempt, votes = self._try(draw(inquiry.rotation), vote, stopwatch)
            following = inquiry.follow(self._breach(votes))
            if following is not Next.COMMIT:
                self._give_up()
            if following is Next.AGAIN:
                continue
            verdict = inquiry.verdict
            if following is Next.SKIP:
                attempt, votes = self._agree_to_skip(vote)
            elif following is not Next.COMMIT:
                assert verdict is not None
                self._raise(verdict)
                inquiry = Inquiry(self._group, self._evidence, self._numbers.on_bad_data)
                continue
            attempt.votes = votes
            self._moments.enter(Moment.APPLY, self.version)
            with stopwatch.phase("update"):
                result = self._commit(attempt, votes, self._update)
                if not result.skipped:
                    self.protection.renew()
            if verdict is not None:
                self.found(verdict)
            return result

    def _try(
        self, batch: StepBatch, vote: Callable[[], Vote], stopwatch: Stopwatch
    ) -> tuple[Attempt, Vote]:
        """Everything up to the gate, and what that came to."""
        attempt = self.attempt = Attempt(self._copied_buffers())
        self._evidence.begin()
        loss = self._compute(batch, stopwatch)
        with stopwatch.phase("communication"):
            self._moments.enter(Moment.REDUCE, self.version)
            if self._has_buffers:
                self.strategy.share_buffers(self._group)
            self.protection.begin()
            norm = float(self.strategy.gradient_norm())
            self._moments.enter(Moment.PREPARE, self.version)
            self.strategy.prepare(loss)
            self.protection.prepare()
            attempt.prepared = True
            self._moments.enter(Moment.GATE, self.version)
            counted = loss if self._group.speaks else 0.0
            own = replace(vote(), loss=counted, square=norm * norm)
            return attempt, exchange(own, self._group)

    def _breach(self, votes: Vote) -> str | None:
        norm = self._norm(votes)
        if self._scale is not None and not math.isfinite(norm):
            # An overflow of FP16 is no wrong number: the loss scale answers it.
            return None
        return breach(votes.loss, norm, self._norms.limit(self._numbers.outlier_factor))

    def _norm(self, votes: Vote) -> float:
        """Of the whole gradient, without the loss scale."""
        scale = 1.0 if self._scale is None else self._scale.value
        return math.sqrt(votes.square) / scale if math.isfinite(votes.square) else math.inf

    def _give_up(self) -> None:
        """The gradient of a trial is not applied, here nor to the copies of shards."""
        self.drop_attempt()
        self.protection.update(None)
        self.strategy.discard()

    def _agree_to_skip(self, vote: Callable[[], Vote]) -> tuple[Attempt, Vote]:
        """Another gate, so that a rank which loses the others here still learns of the outcome."""
        attempt = self.attempt = Attempt(self._copied_buffers())
        attempt.prepared = True
        own = replace(vote(), skip=1.0, loss=math.nan, square=math.inf)
        return attempt, exchange(own, self._group)

    def _raise(self, verdict: Verdict) -> None:
        """Ends training, or this rank's part in it; returns on a rank that goes on."""
        sentence = f"step {self.version}: {verdict.sentence}; the update was not applied"
        if not verdict.ranks:
            raise FloatingPointError(sentence)
        if self._group.rank in verdict.ranks:
            raise WrongNumbersError(sentence)

    def complete(self, votes: Vote) -> StepResult:
        """Commits the step under way, of which the gate came to `votes`, without communication.

        Parameters that follow from what other ranks hold are not up to date afterwards.
        """
        assert self.attempt is not None
        return self._commit(self.attempt, votes, self.strategy.complete)

    def drop_attempt(self) -> None:
        """Forgets the step under way: it will be taken anew, and changes nothing before."""
        if self.attempt is not None:
            present = persistent_buffers(self.strategy.model)
            for name, copy in self.attempt.buffers.items():
                present[name].detach().copy_(copy)
            self.attempt = None

    def regroup(
        self, strategy: Strategy, group: RankGroup, plan: BatchPlan, protection: Protecting
    ) -> None:
        """Goes on in a new generation, with a strategy that holds the same version."""
        if strategy is not self.strategy:
            self._evidence.watch(strategy)
        self.strategy, self._group, self._plan = strategy, group, plan
        self.protection = protection
        self._schedule.move_to(strategy.optimizer)
        strategy.updated = self._gather

    def _gather(self) -> None:
        self._moments.enter(Moment.GATHER, self.version)

    def _update(self, factor: float | None) -> None:
        if factor is None:
            self.strategy.discard()
        else:
            self.strategy.apply(factor)

    def _commit(
        self, attempt: Attempt, votes: Vote, update: Callable[[float | None], None]
    ) -> StepResult:
        """Applies a step whose gate is passed, on the originals and on the copies alike."""
        scale = 1.0 if self._scale is None else self._scale.value
        finite, norm = math.isfinite(votes.square), self._norm(votes)
        applied = finite and not votes.skip
        learning_rate = self._schedule.learning_rate
        factor = clip_factor(norm, self._clip) / scale if applied else None
        if not attempt.copies_updated:
            # Before the originals, as they take over hyperparameters that the update may change.
            self.protection.update(factor)
            attempt.copies_updated = True
        update(factor)
        if applied:
            self._schedule.advance()
            self._num_updates += 1
            self._norms.add(norm)
        if self._scale is not None and not votes.skip:
            self._scale = self._scale.after(not finite, self._policy)
        self.version += 1
        self.attempt = None
        result = StepResult(
            loss=votes.loss,
            grad_norm=norm if self.strategy.knows_norm else math.nan,
            learning_rate=learning_rate,
            loss_scale=None if self._scale is None else scale,
            skipped=not applied,
            votes=votes,
        )
        self.results[self.version] = result
        self.results.pop(self.version - 3, None)
        return result

    def _copied_buffers(self) -> dict[str, torch.Tensor]:
        found = persistent_buffers(self.strategy.model) if self._has_buffers else {}
        return {name: buffer.detach().clone() for name, buffer in found.items()}

    def describe(self, job_state: dict[str, Json], *, durable: bool = False) -> LocalState:
        """This rank's share of the present version, with everything that is no tensor.

        Args:
            job_state: the user's own.
            durable: the share of a checkpoint that it writes, which it may have to ask for.
        """
        state = self.strategy.describe_durable() if durable else self.strategy.describe()
        state.scalars |= {
            "version": self.version,
            "updates": self._num_updates,
            "loss_scale": None if self._scale is None else self._scale.to_json(),
            "norms": self._norms.to_json(),
            "job_state": job_state,
        }
        return state

    def install(self, source: StateSource) -> dict[str, Json]:
        """Takes up the version in `source`; returns the user's own state in it.

        Raises:
            CheckpointMismatchError: it is the state of another model or optimizer.
        """
        self.strategy.install(source)
        scalars = source.scalars
        version, num_updates, scale = (scalars[key] for key in ("version", "updates", "loss_scale"))
        job_state = scalars["job_state"]
        assert isinstance(version, int)
        assert isinstance(num_updates, int)
        assert isinstance(job_state, dict)
        self.version = version
        self._schedule.replay(num_updates)
        self._num_updates = num_updates
        self._norms = NormHistory.from_json(scalars.get("norms"))
        # Another precision than the checkpoint's starts with a scale of its own.
        if self._scale is not None and scale is not None:
            self._scale = LossScale.from_json(scale)
        return job_state

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside; afterwards every module is in the mode that the user gave it."""
        modes = {module: module.training for module in self.strategy.model.modules()}
        self.strategy.model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training

    def _compute(self, batch: StepBatch, stopwatch: Stopwatch) -> float:
        """Forward and backward of all micro-batches; the weighted sum of their losses."""
        device = self._group.device
        scale = 1.0 if self._scale is None else self._scale.value
        total = torch.zeros((), dtype=torch.float64, device=device)

        def taken(micro_batch: MicroBatch) -> Pass:
            # A pass of weight 0 is given a seed that no counted one has.
            index = micro_batch.index
            seed_index = self._plan.num_micro_batches if index is None else index
            seed = micro_batch_seed(self._seed, batch.step, seed_index)
            return Pass(
                data=lambda: to_device(micro_batch.data, device),
                factor=micro_batch.weight * scale,
                seed=lambda: seed_generators(seed, device),
            )

        def done(number: int, loss: torch.Tensor) -> None:
            micro_batch = batch.micro_batches[number]
            self._evidence.end_pass(micro_batch, loss)
            if micro_batch.weight:
                total.add_(loss.double() * micro_batch.weight)

        self.strategy.compute([taken(each) for each in batch.micro_batches], stopwatch, done)
        return float(total)


def to_device(data: Any, device: torch.device) -> Any:
    """A collated micro-batch with its tensors on `device`."""
    if device.type == "cpu":
        return data
    if isinstance(data, torch.Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {key: to_device(value, device) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(to_device(value, device) for value in data))
    if isinstance(data, list | tuple):
        return type(data)(to_device(value, device) for value in data)
    return data
