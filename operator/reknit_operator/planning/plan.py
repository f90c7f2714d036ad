"""The whole plan of a job, as `reknit plan` shows it."""

from collections.abc import Sequence
from math import prod

from reknit.layout import BatchPlan, Degrees, Sharding
from reknit.mesh import Mesh
from reknit.protocol.base import Message
from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import JobSettings
from reknit.state.placement import copies_needed
from reknit.strategies.deepspeed_config import build_config
from reknit_operator.planning.batches import BatchArithmetic, arithmetic
from reknit_operator.planning.communication import Sent, divided, sent, with_communication
from reknit_operator.planning.memory import (
    Memory,
    ModelSize,
    ZeroLimits,
    copy_of_whole,
    memory_per_rank,
    parked_memory,
)
from reknit_operator.planning.pipeline import PipelinePlan, pipeline_memory, pipeline_plan
from reknit_operator.planning.redundancy import Redundancy, last_resort, redundancy
from reknit_operator.planning.servers import ServedPlan, served_plan
from reknit_operator.planning.world import Seat, seats


class Choice(Message):
    """What one way of sharding would mean for the job."""

    sharding: Sharding
    chosen: bool
    memory: Memory
    redundancy: Redundancy
    obstacle: str | None = None
    """Why the job cannot use it."""


class Plan(Message):
    """A job before it runs."""

    name: str
    world_size: int
    num_pods: int
    processes_per_pod: int
    seats: tuple[Seat, ...]
    batch: BatchArithmetic | None
    """None for a command: its program decides."""
    num_parameters: int | None
    num_divided: int
    """Parameters of layers that several ranks divide; 0 if none do."""
    optimizer: str | None
    num_samples: int | None
    total_steps: int | None
    epochs: float | None
    """How often each sample is used."""
    pipeline: PipelinePlan | None
    """None if the model is not cut into stages."""
    sent: Sent | None
    """What ranks send, where the job asks for less than the whole gradient of each step."""
    choices: tuple[Choice, ...]
    """Every way of sharding, of stages and of layers that are cut only none at all; empty for a
    command."""
    served: ServedPlan | None
    """What parameter servers hold; None without them."""
    parked_bytes: int | None
    """Memory of the parked process in each pod; None for a command, which has none."""
    last_resort: str | None
    """Where state comes from that nobody holds any more; None for a command, which sees to it."""
    only_local: bool = False
    """Whether the job writes checkpoints on one machine, but in a cluster would have no place for
    them."""
    unfollowed: str | None
    """The optimizer whose steps a copy of a shard cannot take, so that its state is sent after
    each; None if copies can follow, or if there are none."""
    warm_start: str
    """How a rank's process comes to life again."""


def make_plan(
    settings: JobSettings, inspection: Inspection | None, *, only_local: bool = False
) -> Plan:
    """The plan of a job.

    Args:
        settings: the job.
        inspection: None for a command, whose program is not looked into.
        only_local: whether a cluster would have no place for its checkpoints.

    Raises:
        ValueError: the degrees or the batch do not fit the world.
    """
    degrees = settings.degrees.resolve(settings.world_size)
    batch = settings.batch and arithmetic(
        BatchPlan(settings.batch.global_batch, settings.batch.micro, degrees.data),
        settings.communication.rounds,
    )
    pipeline = pipeline_plan(settings, degrees, inspection) if inspection else None
    steps = inspection.total_steps if inspection else None
    samples = inspection.num_samples if inspection else None
    otherwise = last_resort(settings.checkpoint, only_local=only_local)
    return Plan(
        name=settings.name,
        world_size=settings.world_size,
        num_pods=settings.num_workers,
        processes_per_pod=settings.processes_per_worker,
        seats=tuple(seats(settings.name, settings.processes_per_worker, degrees)),
        batch=batch,
        num_parameters=ModelSize.of(inspection).trainable if inspection else None,
        num_divided=_num_divided(inspection) if inspection and degrees.tensor > 1 else 0,
        optimizer=inspection.optimizer if inspection else None,
        num_samples=samples,
        total_steps=steps,
        epochs=steps * batch.global_batch / samples if steps and samples and batch else None,
        pipeline=pipeline,
        sent=sent(settings, inspection, degrees.data) if inspection else None,
        choices=_choices(settings, inspection, degrees, pipeline, otherwise) if inspection else (),
        served=served_plan(settings, inspection) if inspection else None,
        parked_bytes=parked_memory(inspection) if inspection else None,
        last_resort=otherwise if inspection else None,
        only_local=only_local and inspection is not None,
        unfollowed=_unfollowed(settings, inspection) if inspection else None,
        warm_start=_warm_start(settings, inspection),
    )


def _choices(
    settings: JobSettings,
    inspection: Inspection,
    degrees: Degrees,
    pipeline: PipelinePlan | None,
    otherwise: str,
) -> tuple[Choice, ...]:
    pods = [seat.pod for seat in seats(settings.name, settings.processes_per_worker, degrees)]
    is_cut = degrees.pipeline > 1 or degrees.tensor > 1
    found = []
    for sharding in (Sharding.NONE,) if is_cut else Sharding:
        group = degrees.shard_group if sharding is Sharding.FSDP else None
        mesh = Mesh(degrees.data, degrees.pipeline, degrees.tensor, group)
        found.append(
            Choice(
                sharding=sharding,
                chosen=sharding is settings.sharding,
                memory=_memory(settings, inspection, sharding, mesh, pods, pipeline),
                redundancy=redundancy(
                    divided(settings, sharding),
                    mesh,
                    pods,
                    settings.recovery.copies,
                    otherwise,
                ),
                obstacle=obstacle(sharding, inspection),
            )
        )
    return tuple(found)


def _memory(
    settings: JobSettings,
    inspection: Inspection,
    sharding: Sharding,
    mesh: Mesh,
    pods: Sequence[str],
    pipeline: PipelinePlan | None,
) -> Memory:
    size = ModelSize.of(inspection, mesh.num_tensor)
    activations = inspection.activation_bytes.get(sharding)
    checkpoints = settings.checkpoint is not None
    copies = min(
        copies_needed(mesh.shares(sharding), pods, settings.recovery.copies), mesh.world_size - 1
    )
    if pipeline is not None:
        return pipeline_memory(
            size,
            pipeline,
            num_ranks=mesh.num_stages,
            num_data=mesh.num_data,
            optimizer_tensors=inspection.optimizer_tensors,
            activations=activations,
            copies=copies,
            checkpoints=checkpoints,
        )
    memory = memory_per_rank(
        size,
        sharding,
        settings.precision,
        num_ranks=mesh.num_shards,
        optimizer_tensors=inspection.optimizer_tensors,
        activations=activations,
        copies=copies,
        checkpoints=checkpoints,
        limits=_limits(settings, sharding),
    )
    if mesh.num_tensor > 1:
        # Of all that a rank updates, cut or not.
        whole = copy_of_whole(size, inspection.optimizer_tensors)
        return memory.model_copy(update={"copies": copies * whole})
    if sharding.is_sharded:
        return memory
    tensors = inspection.optimizer_tensors
    return with_communication(memory, size, tensors, settings, mesh.num_data)


def _limits(settings: JobSettings, sharding: Sharding) -> ZeroLimits:
    if not sharding.zero_stage:
        return ZeroLimits.of({})
    given = build_config(
        settings.deepspeed_config,
        sharding=sharding,
        precision=settings.precision,
        micro=1,
        num_steps=1,
    )
    section = given["zero_optimization"]
    return ZeroLimits.of(section if isinstance(section, dict) else {})


def obstacle(sharding: Sharding, inspection: Inspection) -> str | None:
    """Why a job cannot use a way of sharding, None when it can."""
    if sharding.is_sharded and not inspection.elementwise:
        name = inspection.optimizer.rpartition(".")[2]
        return f"{name} needs whole parameters, which sharding cuts"
    return None


def cut_obstacle(degrees: Degrees, inspection: Inspection) -> tuple[str, str] | None:
    """The axis along which a job cannot cut its model, and why; None when it can."""
    if inspection.elementwise:
        return None
    name = inspection.optimizer.rpartition(".")[2]
    if degrees.pipeline > 1:
        return (
            "pipeline",
            f"{name} needs whole parameters, which a pipeline lays out one after the other",
        )
    if degrees.tensor > 1:
        return "tensor", f"{name} needs whole parameters, of which each rank has a part"
    return None


def _num_divided(inspection: Inspection) -> int:
    trained = [p for p in inspection.parameters if p.group is not None]
    return sum(prod(p.shape) for p in trained if p.divided)


def _unfollowed(settings: JobSettings, inspection: Inspection) -> str | None:
    if inspection.shadowable or not inspection.elementwise or not settings.recovery.copies:
        return None
    return inspection.optimizer.rpartition(".")[2]


def _warm_start(settings: JobSettings, inspection: Inspection | None) -> str:
    if inspection is None:
        return "the command is started again in the same pods"
    if inspection.warm_start_obstacle is not None:
        return (
            "the pod's parked process; the next one is a new Python process, which takes seconds: "
            f"{inspection.warm_start_obstacle}"
        )
    module = (settings.function or "").partition(":")[0]
    libraries = "torch, DeepSpeed" if settings.sharding.zero_stage else "torch"
    return (
        "the pod's parked process, which has built the model; the next one is forked from a "
        f"process that has loaded {libraries} and {module}"
    )
