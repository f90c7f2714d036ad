"""What a user asks for."""

from typing import Annotated, Literal

from pydantic import Field

from reknit.layout import Degrees, PipelineSchedule, Precision, Sharding
from reknit.protocol.base import Json
from reknit.protocol.settings import Framework, PipelineSettings
from reknit_operator.api.base import INT_MAX, Name, Part
from reknit_operator.api.communication import Communication
from reknit_operator.api.pods import ParameterServers, Source, Spares, Workers
from reknit_operator.api.recovery import Checkpoint, Recovery

FUNCTION_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"


class Entrypoint(Part):
    """What every rank runs: a function, or a command."""

    function: Annotated[str, Field(max_length=512, pattern=FUNCTION_PATTERN)] | None = None
    """module:function, called as function(job, config); recovery happens inside the process."""
    command: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...],
            Field(min_length=1, max_length=256),
        ]
        | None
    ) = None
    """A program and its arguments; its processes are restarted together."""
    config: Annotated[dict[str, Json], Field(max_length=256)] = Field(default_factory=dict)
    """Values for the function's config type."""


class Pipeline(Part):
    """How the model is cut into stages."""

    stages: Annotated[int, Field(ge=1, le=1024)] = 1
    """Ranks that the model is spread over, each with one stage unless stagesPerRank says more."""
    schedule: PipelineSchedule = PipelineSchedule.ONE_F_ONE_B
    """In which order the micro-batches go through: all forward and then all backward (GPipe), in
    turns (OneForwardOneBackward), or in turns over several stages on each rank (Interleaved)."""
    stages_per_rank: Annotated[int, Field(ge=1, le=64)] = 1
    """Stages of each rank, for Interleaved: more of them mean less waiting."""
    cut: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=1024)
    ] = ()
    """Names of the layers at which the second stage and each following one begin; without them
    parameters are spread evenly."""

    @property
    def settings(self) -> PipelineSettings:
        """The same for the ranks."""
        return PipelineSettings(
            schedule=self.schedule, stages_per_rank=self.stages_per_rank, cut=self.cut
        )


class Parallelism(Part):
    """How many ways the world is divided, and what the data-parallel ranks divide among them."""

    data: Annotated[int, Field(ge=-1, le=65536)] = -1
    """Data-parallel degree; -1 is what the other degrees leave of the world."""
    sharding: Sharding = Sharding.NONE
    """What data-parallel ranks divide: nothing, optimizer state (ZeRO1), gradients too (ZeRO2),
    parameters too (ZeRO3; FSDP, which is torch's own)."""
    shard_group: Annotated[int, Field(ge=2, le=65536)] | None = None
    """Data-parallel ranks that divide the state among them under FSDP, while other groups of as
    many hold the same (hybrid sharding); without it all of them are one group."""
    pipeline: Pipeline = Pipeline()
    """How the model is cut into stages."""
    tensor: Annotated[int, Field(ge=1, le=1024)] = 1
    """Ways that single layers are cut, as the function's tensor_plan says."""

    @property
    def degrees(self) -> Degrees:
        """The degrees as the layout takes them."""
        return Degrees(
            data=self.data,
            pipeline=self.pipeline.stages,
            tensor=self.tensor,
            shard_group=self.shard_group,
        )


class Batch(Part):
    """Samples per optimizer step and per forward pass; accumulation follows from them."""

    global_batch: Annotated[int, Field(alias="global", ge=1, le=INT_MAX)]
    """Samples per optimizer step, over all ranks; the same at every world size."""
    micro: Annotated[int, Field(ge=1, le=INT_MAX)]
    """Samples per forward pass of one rank."""


class DeepSpeed(Part):
    """Settings for DeepSpeed."""

    config: Annotated[dict[str, Json], Field(max_length=256)] = Field(default_factory=dict)
    """Additions to the DeepSpeed configuration; what the job decides itself is refused."""


class Scheduling(Part):
    """How the pods come to their nodes."""

    gang: Literal["PodGroup"] | None = None
    """PodGroup: the scheduler places all pods or none."""
    queue_name: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """The queue that admits the job."""
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""


class JobSpec(Part):
    """What a user asks for."""

    entrypoint: Entrypoint
    """What every rank runs."""
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Image of the training container; default: the runtime image of the operator's version."""
    source: Source | None = None
    """Where pods of a cluster find the code, if not in the image; they start in that folder. A
    local run looks beside the manifest."""
    framework: Framework = Framework.PYTORCH
    """Which rendezvous environment a command finds."""
    parallelism: Parallelism = Parallelism()
    """How the world is divided."""
    batch: Batch | None = None
    """Samples per step; required for a function."""
    precision: Precision = Precision.FP32
    """Number format of forward and backward; the optimizer always works in FP32."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of everything random: weights, order of data, dropout."""
    workers: Workers = Workers()
    """The pods that train."""
    spares: Spares = Spares()
    """Warm pods that take the place of lost ones."""
    parameter_servers: ParameterServers | None = None
    """Pods that keep the parameters, instead of the workers."""
    deepspeed: DeepSpeed = DeepSpeed()
    """Settings for DeepSpeed, used by the ZeRO shardings."""
    communication: Communication = Communication()
    """How data-parallel ranks tell each other less."""
    recovery: Recovery = Recovery()
    """What to do when ranks are lost."""
    checkpoint: Checkpoint = Checkpoint()
    """Where checkpoints go and when they are written."""
    scheduling: Scheduling = Scheduling()
    """How the pods come to their nodes."""
    suspend: bool = False
    """True ends the pods, after a checkpoint, until it is false again."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=INT_MAX)] | None = None
    """Seconds after which a running job fails."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=INT_MAX)] | None = None
    """Seconds after which a finished job is deleted; not deleted if not given."""
