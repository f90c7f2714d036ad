"""The `Job` of a dry run: stops at the first training step, having looked at everything before."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Never

import torch

from reknit.arguments import check_dataset, check_engine_arguments
from reknit.checkpoint.pretrained import load_pretrained
from reknit.cuts import Cut, TensorPlan
from reknit.data.clients import who_takes_part
from reknit.data.drawing import Drawing
from reknit.data.generators import seed_generators
from reknit.data.order import DataOrder
from reknit.data.seeds import micro_batch_seed
from reknit.errors import ConfigurationError
from reknit.inspection.activations import activation_bytes, activation_bytes_of_part
from reknit.inspection.model import Built, buffers, build, parameters, stages
from reknit.inspection.optimizer import OptimizerFacts, probe, qualified_name
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
    unique_parameters,
)
from reknit.parameter_server.binding import specs_of
from reknit.parameter_server.refusals import NO_CLIPPING, NO_RANK
from reknit.parameter_server.tensors import check_optimizer
from reknit.protocol.base import Json
from reknit.protocol.inspection import Inspection, StageInfo
from reknit.protocol.settings import BatchSettings, JobSettings
from reknit.strategies.tensor_cutting import cuts_of, divisions
from reknit.trainer.job import total_steps


class Inspected(BaseException):
    """Ends the user's function where training would begin; no `except Exception` stops it."""


@dataclass(frozen=True)
class _Data:
    num_samples: int
    total_steps: int
    micro_batch: Any


class InspectionEngine(Engine):
    """Stands for an engine whose model has no elements."""

    def __init__(
        self,
        built: Built,
        loss: Loss,
        facts: OptimizerFacts,
        cuts: Mapping[str, Cut],
        job: "InspectionJob",
    ) -> None:
        self.built = built
        self.loss = loss
        self.facts = facts
        self.cuts = cuts
        self._job = job

    def train_step(self, batch: Batch) -> Never:
        """Ends the dry run."""
        del batch
        raise Inspected

    def evaluate(
        self,
        dataset: Dataset,
        *,
        loss: Loss | None = None,
        transform: Transform | None = None,
        collate: Collate | None = None,
        limit: int | None = None,
    ) -> float:
        """Draws the first samples; the figure is not a number."""
        del loss
        check_dataset(dataset, "engine.evaluate")
        count = len(dataset) if limit is None else min(limit, len(dataset))
        if count < 1:
            raise ConfigurationError("engine.evaluate: the data set has no samples")
        self._job.draw(Drawing(dataset, transform, collate), range(count), shuffle=False)
        return math.nan


class InspectionJob(Job):
    """Rank 0 of a job that is not run."""

    def __init__(self, settings: JobSettings, batch: BatchSettings) -> None:
        self._world_size = settings.world_size
        self.seed = settings.seed
        self.state: dict[str, Json] = {}
        self._batch = batch
        self._precision = settings.precision
        self._num_tensor = settings.degrees.tensor
        self._pipeline = settings.pipeline
        self._num_stages = settings.degrees.pipeline * settings.pipeline.stages_per_rank
        self._stages: tuple[StageInfo, ...] = ()
        self._communication = settings.communication
        self._is_served = settings.servers is not None
        self._engine: InspectionEngine | None = None
        self._data: _Data | None = None

    @property
    def rank(self) -> int:
        """The only one."""
        if self._is_served and self._engine is None:
            raise ConfigurationError(NO_RANK)
        return 0

    @property
    def world_size(self) -> int:
        """Ranks of the full job."""
        return self._world_size

    @property
    def device(self) -> torch.device:
        """Where data would be; nothing is computed."""
        return torch.device("cpu")

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
        """Builds model and optimizer without elements and lets the optimizer step on tiny ones."""
        if self._engine is not None:
            raise ConfigurationError("job.engine is to be called once")
        check_engine_arguments(
            model=model,
            optimizer=optimizer,
            loss=loss,
            schedule=schedule,
            clip_grad_norm=clip_grad_norm,
        )
        if self._is_served and clip_grad_norm is not None:
            raise ConfigurationError(NO_CLIPPING)
        seed_generators(self.seed, torch.device("cpu"))
        built = build(model, optimizer, schedule)
        trainable = list(unique_parameters(built.model.parameters()))
        if not trainable:
            raise ConfigurationError("job.engine: the model has no trainable parameters")
        self._stages = stages(built, self._pipeline, self._num_stages)
        if pretrained is not None:
            load_pretrained(built.model, pretrained)
        if self._is_served:
            check_optimizer(optimizer, specs_of(built.model))
        cuts: Mapping[str, Cut] = {}
        if tensor_plan or self._num_tensor > 1:
            # Also where nothing is cut: a plan that does not fit is a mistake.
            cuts = cuts_of(built.model, tensor_plan, self._num_tensor)
        self._engine = InspectionEngine(built, loss, probe(optimizer, trainable), cuts, self)
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
        """Draws the first micro-batch of the first step and ends the dry run."""
        check_dataset(dataset, "job.batches")
        num_samples = len(dataset)
        who_takes_part(self._communication, clients, num_samples)
        total = total_steps(num_samples, steps, epochs, self._batch.global_batch)
        drawing = Drawing(dataset, transform, collate)
        first = self.draw(drawing, range(self._batch.micro), shuffle=shuffle)
        self._data = _Data(num_samples, total, first)
        raise Inspected

    def log(self, **metrics: float) -> None:
        """Takes the figures and forgets them."""

    def draw(self, drawing: Drawing, positions: range, *, shuffle: bool) -> Any:
        """The micro-batch at the beginning of `positions` in the data order."""
        order = DataOrder(len(drawing.dataset), self.seed, shuffle)
        sample_ids = order.samples(positions[: self._batch.micro])
        return drawing.draw(sample_ids, micro_batch_seed(self.seed, 0, 0), threading.Event())

    def result(self) -> Inspection:
        """What has been found.

        Raises:
            ConfigurationError: the function returned without calling `job.engine`, or the loss
                cannot be computed with layers cut.
        """
        engine, data = self._engine, self._data
        if engine is None:
            raise ConfigurationError(
                "spec.entrypoint.function: it returns without calling job.engine, so nothing is "
                "trained"
            )
        found = Inspection(
            parameters=tuple(parameters(engine.built, divisions(engine.built.model, engine.cuts))),
            buffers=tuple(buffers(engine.built)),
            tables=tuple(spec.name for spec in specs_of(engine.built.model) if spec.is_table),
            optimizer=qualified_name(engine.built.optimizer),
            optimizer_tensors=engine.facts.tensors,
            elementwise=engine.facts.elementwise,
            shadowable=engine.facts.shadowable,
            stages=self._stages,
        )
        if data is None:
            return found
        arguments = (engine.loss, data.micro_batch, self._precision)
        activations = (
            activation_bytes_of_part(engine.built, engine.cuts, self._num_tensor, *arguments)
            if self._num_tensor > 1
            else activation_bytes(engine.built, *arguments)
        )
        return found.model_copy(
            update={
                "num_samples": data.num_samples,
                "total_steps": data.total_steps,
                "activation_bytes": activations,
            }
        )
