"""The job that user code is given: makes the engine, hands out batches, keeps the books."""

import math
import os
from collections.abc import Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Final

from reknit.checkpoint.consolidate import consolidate
from reknit.checkpoint.reader import newest, open_checkpoint
from reknit.checkpoint.writer import Checkpointer
from reknit.comm.group import RankGroup
from reknit.data.ledger import Ledger
from reknit.data.loader import StepBatch, StepLoader
from reknit.data.order import DataOrder
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
from reknit.protocol.outcome import MAX_EXCEPTION_CHARACTERS, sendable
from reknit.protocol.ranks import Checkpointed, Phase, Resumed, StepDone
from reknit.protocol.settings import ENV_LEDGER, JobSettings
from reknit.strategies.base import Recipe, tied_names
from reknit.strategies.choose import make_strategy
from reknit.strategies.deepspeed_config import scale_settings
from reknit.strategies.scaling import ScalePolicy
from reknit.trainer.checkpointing import CheckpointCycle
from reknit.trainer.engine import RankBatch, TrainingEngine
from reknit.trainer.errors import CheckpointError
from reknit.trainer.link import Link
from reknit.trainer.resume import agree_on_checkpoint
from reknit.trainer.step import Stepper
from reknit.trainer.timing import peak_memory_bytes

MODEL_FILE: Final = "model.safetensors"
"""The consolidated weights of a finished job, beside its checkpoints."""


class RankJob(Job):
    """One rank's run of the user's function in one generation."""

    def __init__(
        self, settings: JobSettings, generation: Generation, group: RankGroup, link: Link
    ) -> None:
        assert settings.batch is not None, "only commands come without batch sizes"
        self.rank = group.rank
        self.world_size = group.world_size
        self.seed = settings.seed
        self.device = group.device
        self.state: dict[str, Json] = {}
        self._settings = settings
        self._generation = generation
        self._group = group
        self._link = link
        self._plan = BatchPlan(settings.batch.global_batch, settings.batch.micro, group.world_size)
        self._engine: TrainingEngine | None = None
        self._cycle: CheckpointCycle | None = None
        self._total_steps: int | None = None
        self._logged: dict[str, float] = {}

    @property
    def version(self) -> int:
        """Steps committed."""
        return 0 if self._engine is None else self._engine.version

    def engine(
        self,
        *,
        model: ModelFactory,
        optimizer: OptimizerFactory,
        loss: Loss,
        schedule: ScheduleFactory | None = None,
        clip_grad_norm: float | None = None,
        pretrained: str | PathLike[str] | None = None,
    ) -> Engine:
        """Builds the engine and takes up the newest checkpoint.

        Raises:
            ConfigurationError: it was called before, or cannot be built as the manifest says.
            CheckpointMismatchError: the checkpoint belongs to another model.
        """
        if self._engine is not None:
            raise ConfigurationError("job.engine is to be called once")
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise ConfigurationError(
                f"job.engine: clip_grad_norm must be positive, not {clip_grad_norm}"
            )
        self._link.enter(Phase.LOADING, 0)
        recipe = Recipe(
            model=model,
            optimizer=optimizer,
            loss=loss,
            schedule=schedule,
            clip_grad_norm=clip_grad_norm,
            pretrained=pretrained,
        )
        stepper = Stepper(
            make_strategy(recipe, self._settings, self._group, self._plan),
            recipe,
            self._group,
            self._plan,
            seed=self.seed,
            precision=self._settings.precision,
            policy=ScalePolicy.from_deepspeed(scale_settings(self._settings.deepspeed_config)),
        )
        self._cycle = self._resume(stepper)
        folder = os.environ.get(ENV_LEDGER)
        self._engine = TrainingEngine(
            stepper,
            loss,
            self._group,
            self._plan,
            seed=self.seed,
            cycle=self._cycle,
            ledger=Ledger(folder, self._generation, self.rank) if folder else None,
            leaving=lambda: self._link.leaving,
            tell=self._link.tell,
            enter=lambda phase: self._link.enter(phase, self.version),
        )
        self._link.enter(Phase.STEP, self.version)
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
    ) -> Iterator[Batch]:
        """The global batches from where the job stands up to `steps` or `epochs`.

        Raises:
            ConfigurationError: the arguments make no sense, there is no engine yet, or a batch was
                not given to `engine.train_step` before the next one is asked for.
        """
        engine = self._engine
        if engine is None:
            raise ConfigurationError("job.batches: call job.engine first")
        num_samples = len(dataset)
        stop = total_steps(num_samples, steps, epochs, self._plan.global_batch)
        self._total_steps = stop
        return self._batches(
            engine,
            StepLoader(
                dataset,
                order=DataOrder(num_samples, self.seed, shuffle),
                plan=self._plan,
                rank=self.rank,
                seed=self.seed,
                transform=transform,
                collate=collate,
                start_step=engine.version,
                stop_step=max(stop, engine.version),
            ),
            range(engine.version, stop),
        )

    def log(self, **metrics: float) -> None:
        """Adds figures of the step just committed."""
        self._logged |= {name: float(value) for name, value in metrics.items()}

    def finish(self) -> None:
        """After the user's function: the last version made durable, the weights in one file.

        Raises:
            CheckpointError: the final checkpoint could not be written.
        """
        self._boundary()
        self._link.enter(Phase.CLOSING, self.version)
        if self._engine is None or self._cycle is None:
            return
        error = self._write_last(self._cycle)
        if error is not None:
            raise CheckpointError(f"the final checkpoint could not be written: {error}")
        if self.rank == 0:
            self._consolidate()
        self._cycle.close()

    def _resume(self, stepper: Stepper) -> CheckpointCycle | None:
        """Takes up the newest checkpoint, and prepares for writing the next ones."""
        checkpoint = self._settings.checkpoint
        source = "beginning"
        durable: int | None = None
        if checkpoint is not None:
            folder = Path(checkpoint.path)
            info = agree_on_checkpoint(folder, self._group)
            if info is not None:
                with open_checkpoint(info) as opened:
                    self.state = stepper.install(opened)
                source, durable = str(info.path), info.version
        if self.rank == 0:
            self._link.tell(
                Resumed(generation=self._generation, step=stepper.version, source=source)
            )
        if checkpoint is None:
            return None
        checkpointer = Checkpointer(
            folder,
            rank=self.rank,
            world_size=self.world_size,
            generation=self._generation,
            keep=checkpoint.keep,
        )
        return CheckpointCycle(checkpoint, checkpointer, self._group, durable)

    def _batches(self, engine: TrainingEngine, loader: StepLoader, steps: range) -> Iterator[Batch]:
        # The last step of an earlier loop that was left with `break`.
        self._boundary()
        with loader:
            for step in steps:
                yield RankBatch(step, partial(_draw, loader))
                if engine.version != step + 1:
                    raise ConfigurationError(
                        "job.batches: give each batch to engine.train_step before taking the next"
                    )
                self._boundary()

    def _boundary(self) -> None:
        """Between two steps, all ranks alike: tells the agent, begins a checkpoint, leaves.

        The user's own state and figures of a version are what they are here, when the next batch
        is asked for.
        """
        engine, cycle = self._engine, self._cycle
        if engine is None or engine.last is None:
            return
        (result, stopwatch), engine.last = engine.last, None
        if cycle is not None and cycle.wants_to_begin():
            with stopwatch.phase("checkpoint"):
                cycle.begin(self.version, engine.stepper.describe(self.state))
        metrics = {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
        }
        if result.loss_scale is not None:
            metrics["loss_scale"] = result.loss_scale
        self._link.tell(
            StepDone(
                generation=self._generation,
                step=self.version,
                total_steps=self._total_steps,
                samples=self._plan.global_batch,
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
        self._link.enter(Phase.STEP, self.version)
        self._tell_checkpoints()
        if engine.leave_agreed:
            raise StoppedError(None if cycle is None else self._save_before_leaving(cycle))

    def _save_before_leaving(self, cycle: CheckpointCycle) -> str | None:
        """Makes the present version durable; a sentence about what is lost if that fails."""
        error = self._write_last(cycle)
        cycle.close()
        if error is None:
            return None
        start = "the beginning" if not cycle.durable_version else f"step {cycle.durable_version}"
        return sendable(
            f"the last checkpoint (step {self.version}) could not be written, training will "
            f"resume from {start}: {error}"[:MAX_EXCEPTION_CHARACTERS],
            MAX_EXCEPTION_CHARACTERS,
        )

    def _write_last(self, cycle: CheckpointCycle) -> str | None:
        """Makes the present version durable, all ranks together; the reason if that fails."""
        assert self._engine is not None
        self._link.enter(Phase.CHECKPOINT, self.version)
        cycle.flush()
        if cycle.durable_version != self.version:
            cycle.begin(self.version, self._engine.stepper.describe(self.state))
            cycle.flush()
        reason = self._tell_checkpoints()
        return None if cycle.durable_version == self.version else reason or "unknown reason"

    def _tell_checkpoints(self) -> str | None:
        """Reports checkpoints that are complete or have failed; the newest one's error."""
        assert self._cycle is None or self._engine is not None
        error = None
        for report in [] if self._cycle is None else self._cycle.reports():
            error = report.error
            if self.rank == 0:
                self._link.tell(
                    Checkpointed(
                        step=report.version,
                        location=report.location,
                        seconds=report.seconds,
                        error=report.error,
                    )
                )
        return error

    def _consolidate(self) -> None:
        checkpoint = self._settings.checkpoint
        assert checkpoint is not None
        assert self._engine is not None
        info = newest(checkpoint.path, verify_contents=False)
        if info is None or info.version != self.version:
            raise CheckpointError("the final checkpoint has disappeared")
        aliases = tied_names(self._engine.stepper.strategy.model)
        try:
            with open_checkpoint(info) as source:
                consolidate(source, Path(checkpoint.path) / MODEL_FILE, aliases=aliases)
        except OSError as error:
            raise CheckpointError(f"{MODEL_FILE} could not be written: {error}") from error


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
        raise ConfigurationError(
            "job.batches: there is nothing to train on, as "
            f"{'steps' if steps is not None else 'epochs'} comes to {total} steps"
        )
    return total


def _draw(loader: StepLoader) -> tuple[StepBatch, float]:
    before = loader.wait_seconds
    batch = next(loader)
    return batch, loader.wait_seconds - before
