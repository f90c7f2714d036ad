"""What a pipeline means for a job: its stages, how long ranks wait, the memory of a rank."""

from reknit.layout import BatchPlan, Degrees
from reknit.mesh import Axis, Coordinates, Mesh
from reknit.pipeline.schedule import bubble, in_flight
from reknit.protocol.base import Message
from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import JobSettings
from reknit_operator.planning.memory import FP32_BYTES, Memory, ModelSize


class PlannedStage(Message):
    """One stage of the model."""

    ranks: tuple[int, ...]
    """That compute it, each on other micro-batches."""
    first: str
    """Name of its first layer."""
    last: str
    num_elements: int
    """Of its trained parameters."""


class PipelinePlan(Message):
    """A model that is cut into stages."""

    schedule: str
    num_micro_batches: int
    """Of each pipeline, in a step."""
    bubble: float
    """The share of a step in which a rank waits if all stages take as long, by formula."""
    in_flight: int
    """Micro-batches whose activations the first rank keeps at the same time, over its stages."""
    stages: tuple[PlannedStage, ...]


def pipeline_plan(
    settings: JobSettings, degrees: Degrees, inspection: Inspection
) -> PipelinePlan | None:
    """The plan of a pipeline; None if the model stays in one piece.

    Args:
        settings: the job; it has batch sizes, as all functions have.
        degrees: resolved.
        inspection: what the dry run has found.
    """
    if degrees.pipeline == 1:
        return None
    assert settings.batch is not None
    mesh = Mesh(degrees.data, degrees.pipeline, degrees.tensor)
    batch = BatchPlan(settings.batch.global_batch, settings.batch.micro, degrees.data)
    pipeline = settings.pipeline
    shape = (mesh.num_stages, pipeline.stages_per_rank, batch.num_steps)
    return PipelinePlan(
        schedule=pipeline.schedule,
        num_micro_batches=batch.num_steps,
        bubble=bubble(pipeline.schedule, *shape),
        in_flight=in_flight(pipeline.schedule, 0, *shape),
        stages=tuple(
            PlannedStage(
                ranks=mesh.along(Axis.DATA, mesh.rank(Coordinates(0, number % mesh.num_stages, 0))),
                first=stage.layers[0],
                last=stage.layers[-1],
                num_elements=stage.num_elements,
            )
            for number, stage in enumerate(inspection.stages)
        ),
    )


def pipeline_memory(
    size: ModelSize,
    plan: PipelinePlan,
    *,
    num_ranks: int,
    num_data: int,
    optimizer_tensors: int,
    activations: int | None,
    copies: int,
    checkpoints: bool,
) -> Memory:
    """Memory of each rank: masters have the size of the fullest rank's, so all have as much.

    Args:
        size: the whole model's.
        plan: its stages.
        num_ranks: along the pipeline.
        num_data: along the data axis.
        optimizer_tensors: per parameter.
        activations: bytes that one micro-batch keeps over the whole model, if that is known.
        copies: of each rank's masters, as many as are kept.
        checkpoints: whether any are written.
    """
    held = [0] * num_ranks
    for number, stage in enumerate(plan.stages):
        held[number % num_ranks] += stage.num_elements
    own = max(held)
    state = FP32_BYTES * (1 + optimizer_tensors)
    return Memory(
        parameters=FP32_BYTES * (own + size.frozen) + size.buffer_bytes,
        gradients=FP32_BYTES * own,
        optimizer=FP32_BYTES * optimizer_tensors * own,
        # An estimate: activations are taken to be spread evenly over the stages.
        activations=None
        if activations is None
        else activations * plan.in_flight // len(plan.stages),
        temporary=FP32_BYTES * 2 * own,
        copies=copies * (state + FP32_BYTES) * own,
        checkpoint=state * -(-own // num_data) if checkpoints else 0,
    )
