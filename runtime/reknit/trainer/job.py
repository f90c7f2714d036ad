"""The job that user code is given: makes the engine, hands out batches, keeps the books."""

import copy
import math
from collections.abc import Iterator, Sequence
from os import PathLike

import torch

from reknit.arguments import check_dataset, check_engine_arguments
from reknit.cuts import TensorPlan
from reknit.data.clients import FederatedLoader, who_takes_part
from reknit.data.drawing import Drawing
from reknit.data.loader import StepBatch, StepLoader
from reknit.data.order import DataOrder
from reknit.data.prefetch import Prefetcher
from reknit.errors import ConfigurationError, StoppedError
from reknit.job import (
    Batch,
    Collate,
    Dataset,
    Engine,
    Job,
    Loss,
    ModelFactory,
    OptimizerFactory,
    ScheduleFactory,
    Transform,
)
from reknit.layout import BatchPlan
from reknit.protocol.base import Generation, Json
from reknit.protocol.ranks import StepDone
from reknit.protocol.settings import JobSettings
from reknit.strategies.base import Built, Recipe, Strategy, build
from reknit.strategies.rounds import passes_per_local_step
from reknit.trainer import closing
from reknit.trainer.engine import RankBatch, TrainingEngine
from reknit.trainer.link import Link
from reknit.trainer.loading import Drawer
from reknit.trainer.sent import sent_figures
from reknit.trainer.session import Session
from reknit.trainer.step import StepResult
from reknit.trainer.timing import peak_memory_bytes
from reknit.trainer.training import Training


class RankJob(Job):
    """One run of the user's function on one rank.

    Until `engine`, or until the function asks for the rank's place, the process may be parked.
    """

    def __init__(self, settings: JobSettings, session: Session, link: Link) -> None:
        assert settings.batch is not None, "only commands come without batch sizes"
        self.seed = settings.seed
        self._settings = settings
        self._batch = settings.batch
        self._session = session
        self._link = link
        self._state: dict[str, Json] = {}
        self._training: Training | None = None
        self._engine: TrainingEngine | None = None
        self._total_steps: int | None = None
        self._logged: dict[str, float] = {}
        self._sent: tuple[Generation | None, dict[str, float]] = (None, {})
        """What a step sends in this generation."""

    @property
    def rank(self) -> int:
        """This process among all of the job; waits for its place."""
        return self._session.place.rank

    @property
    def world_size(self) -> int:
        """Ranks at present; waits for this one's place."""
        return self._session.place.world_size

    @property
    def device(self) -> torch.device:
        """Where this rank computes; waits for its place."""
        return self._session.device

    @property
    def state(self) -> dict[str, Json]:
        """The user's own state."""
        return self._state if self._training is None else self._training.state

    @state.setter
    def state(self, state: dict[str, Json]) -> None:
        if self._training is None:
            self._state = state
        else:
            self._training.state = state

    @property
    def version(self) -> int:
        """Steps committed."""
        return 0 if self._training is None else self._training.version

    def engine(
        self,
        *,
        model: ModelFactory,
        optimizer: OptimizerFactory,
        loss: Loss,
        schedule: ScheduleFactory | None = None,
        clip_grad_norm: float | None = None,
        pretrained: str | PathLike[str] | None = None,
        tensor_plan: TensorPlan | None = None,
    ) -> Engine:
        """Builds the engine and takes up the state of the job.

        Raises:
            ConfigurationError: it was called before, or cannot be built as the manifest says.
            CheckpointMismatchError: the checkpoint belongs to another model.
        """
        if self._engine is not None:
            raise ConfigurationError("job.engine is to be called once")
        check_engine_arguments(
            model=model,
            optimizer=optimizer,
            loss=loss,
            schedule=schedule,
            clip_grad_norm=clip_grad_norm,
        )
        recipe = Recipe(
            model=model,
            optimizer=optimizer,
            loss=loss,
            schedule=schedule,
            clip_grad_norm=clip_grad_norm,
            pretrained=pretrained,
            tensor_plan=tensor_plan,
        )
        training = Training(
            self._settings, self._session, self._link, recipe, self._warm_up(recipe), self._state
        )
        self._session.enter = training.enter
        self._session.version = lambda: training.version
        self._session.lost = training.lost
        self._training = training
        self._session.survive(lambda: None)
        self._engine = TrainingEngine(training)
        return self._engine

    def batches(
        self,
        dataset: Dataset,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        transform: Transform | None = None,
        collate: Collate | None = None,
        shuffle: bool = True,
        clients: Sequence[int] | None = None,
    ) -> Iterator[Batch]:
        """The global batches from where the job stands up to `steps` or `epochs`.

        Raises:
            ConfigurationError: the arguments make no sense, there is no engine yet, or a batch was
                not given to `engine.train_step` before the next one is asked for.
        """
        check_dataset(dataset, "job.batches")
        engine, training = self._engine, self._training
        if engine is None or training is None:
            raise ConfigurationError("job.batches: call job.engine first")
        num_samples = len(dataset)
        stop = total_steps(num_samples, steps, epochs, self._batch.global_batch)
        self._total_steps = stop

        communication = self._settings.communication
        owners = who_takes_part(communication, clients, num_samples)

        def load(plan: BatchPlan, rank: int, start: int) -> Prefetcher[StepBatch]:
            if owners is not None and communication.rounds is not None:
                passes = passes_per_local_step(plan, communication.rounds)
                return FederatedLoader(
                    Drawing(dataset, transform, collate),
                    owners,
                    passes=passes * communication.rounds.local_steps,
                    micro=plan.micro,
                    rank=rank,
                    num_ranks=plan.num_ranks,
                    seed=self.seed,
                    shuffle=shuffle,
                    start_step=start,
                    stop_step=stop,
                )
            return StepLoader(
                dataset,
                order=DataOrder(num_samples, self.seed, shuffle),
                plan=plan,
                rank=rank,
                seed=self.seed,
                transform=transform,
                collate=collate,
                start_step=start,
                stop_step=stop,
            )

        return self._batches(training, engine, Drawer(load), stop)

    def log(self, **metrics: float) -> None:
        """Adds figures of the step just committed."""
        self._logged |= {name: float(value) for name, value in metrics.items()}

    def finish(self) -> None:
        """After the user's function: the last version made durable, the weights in one file.

        To be called again when ranks have joined that were not there before.

        Raises:
            CheckpointError: the final checkpoint could not be written.
        """
        training = self._training
        if training is None:
            # Also a function that trains nothing has a place, and ends with all others.
            _ = self._session.place
            return
        self._boundary(training)
        self._session.survive(lambda: closing.finish(training))

    def _warm_up(self, recipe: Recipe) -> Built | None:
        """What can be built before there is a place."""
        if self._session.has_place or torch.cuda.is_available():
            return None
        return build(recipe, seed=self.seed, device=torch.device("cpu"))

    def _batches(
        self, training: Training, engine: TrainingEngine, drawer: Drawer, stop: int
    ) -> Iterator[Batch]:
        # The last step of an earlier loop that was left with `break`.
        self._boundary(training)
        journal = training.journal
        with drawer.open():
            for step in range(max(journal.first, journal.position), stop):
                journal.hand_out(step, copy.deepcopy(training.state))
                engine.handed_out = RankBatch(step, drawer.draw)
                yield engine.handed_out
                if not engine.has_taken_step:
                    raise ConfigurationError(
                        "job.batches: give each batch to engine.train_step before taking the next"
                    )
                self._boundary(training)
        journal.advance(max(journal.position, stop))

    def _boundary(self, training: Training) -> None:
        """Between two steps, all ranks alike: tells the agent, begins a checkpoint, leaves.

        The user's own state and figures of a version are what they are here, when the next batch
        is asked for.
        """
        engine, cycle = self._engine, training.cycle
        if engine is None or engine.last is None:
            return
        assert training.stepper is not None
        (result, stopwatch), engine.last = engine.last, None
        if cycle is not None and cycle.wants_to_begin():
            with stopwatch.phase("checkpoint"):
                state = training.stepper.describe(training.state, durable=True)
                cycle.begin(training.version, state)
        if training.hashes.wanted and training.version == training.journal.position:
            training.hashes.record(
                training.version,
                training.stepper.describe({}, durable=True),
                rank=training.group.rank,
                generation=training.group.generation,
            )
        metrics = {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
        }
        if result.loss_scale is not None:
            metrics["loss_scale"] = result.loss_scale
        metrics |= self._sent_figures(training, training.stepper.strategy, result)
        self._link.tell(
            StepDone(
                generation=training.group.generation,
                step=training.journal.position,
                total_steps=self._total_steps,
                samples=self._batch.global_batch,
                skipped=result.skipped,
                # JSON has no other numbers.
                metrics={
                    name: value
                    for name, value in {**metrics, **self._logged}.items()
                    if math.isfinite(value)
                },
                seconds=stopwatch.split(),
                memory_bytes=peak_memory_bytes(),
            )
        )
        self._logged = {}
        training.enter_function()
        closing.tell_checkpoints(training)
        if engine.regroup_agreed and not engine.leave_agreed:
            engine.regroup_agreed = False
            self._session.leave()
            self._session.survive(lambda: None)
        if engine.leave_agreed:
            unsaved = self._session.survive(lambda: closing.save_before_leaving(training))
            raise StoppedError(unsaved)

    def _sent_figures(
        self, training: Training, strategy: Strategy, result: StepResult
    ) -> dict[str, float]:
        known, figures = self._sent
        if known != training.group.generation:
            figures = sent_figures(strategy, self._settings, training.group.world_size)
            # Before the first update the optimizer has no state whose copies could be counted.
            if not result.skipped:
                self._sent = training.group.generation, figures
        return figures


def total_steps(num_samples: int, steps: int | None, epochs: int | None, global_batch: int) -> int:
    """The step at which training ends.

    Raises:
        ConfigurationError: not exactly one of `steps` and `epochs` is given, or nothing to do.
    """
    if (steps is None) == (epochs is None):
        raise ConfigurationError("job.batches: give exactly one of steps and epochs")
    if num_samples < 1:
        raise ConfigurationError("job.batches: the data set has no samples")
    if steps is not None:
        total = steps
    else:
        assert epochs is not None
        total = epochs * num_samples // global_batch
    if total < 1:
        reason = (
            f"steps is {steps}; raise it"
            if epochs is None
            else f"{epochs} x {num_samples} samples are less than one batch of {global_batch}; "
            "lower spec.batch.global or raise epochs"
        )
        raise ConfigurationError(f"job.batches: there is nothing to train on, as {reason}")
    return total
