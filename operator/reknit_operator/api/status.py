"""What the operator reports of a job."""

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from reknit.protocol.outcome import ExitClass
from reknit_operator.api.base import Count, Figure, Name, Observed, Text, Time, keyed_by


class ConditionType(StrEnum):
    """What is known of a job, the most telling first; `Succeeded` and `Failed` are final."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    RECOVERING = "Recovering"
    RUNNING = "Running"
    PODS_READY = "PodsReady"


ConditionStatus: TypeAlias = Literal["True", "False", "Unknown"]
ObjectGeneration: TypeAlias = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""metadata.generation of a manifest; API servers keep bounds as floating-point numbers."""


class Condition(Observed):
    """One observation of a job, as Kubernetes tools expect it."""

    type: Annotated[str, Field(max_length=64)]
    """What was observed."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=256)]
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, for people."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: ObjectGeneration | None = None
    """The generation of the manifest that this was observed of."""


def _most_telling_first(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    # `kubectl get` shows the first condition that is true as the job's state.
    order = {str(kind): place for place, kind in enumerate(ConditionType)}
    return tuple(sorted(conditions, key=lambda found: order.get(found.type, len(order))))


class Membership(Observed):
    """Who takes part, as the coordinator last reported."""

    incarnation: Count = 0
    """Number of coordinators that this job has had; taken before one is created."""
    generation: Count = 0
    """Counter of the coordinator's generations."""
    ranks: Count = 0
    """Ranks of the current generation."""
    spares: Count = 0
    """Warm pods without a rank."""


class ReplicaStatus(Observed):
    """Pods of one role."""

    role: Annotated[str, Field(max_length=63)]
    """worker, spare or coordinator."""
    desired: Count = 0
    """Pods that the job asks for."""
    active: Count = 0
    """Pods that exist and have not ended."""
    ready: Count = 0
    """Pods that are ready."""
    succeeded: Count = 0
    """Pods that ended with success."""
    failed: Count = 0
    """Pods that ended otherwise, since the current attempt began."""


class ProgressStatus(Observed):
    """How far training is; written rarely, metrics have every step."""

    step: Count = 0
    """Committed steps."""
    total_steps: Count | None = None
    """Steps that the program asks for."""
    loss: Figure | None = None
    """Loss of the last step that was reported."""
    samples_per_second: Figure | None = None
    """Throughput of the whole job."""
    estimated_completion_time: Time | None = None
    """When training ends at this rate."""


class RecoveryStatus(Observed):
    """What recovering in place has cost."""

    count: Count = 0
    """Recoveries so far."""
    last_seconds: Figure | None = None
    """From the last fault to the next committed step."""
    lost_steps: Count = 0
    """Committed steps that had to be taken again."""


class CheckpointStatus(Observed):
    """The newest durable checkpoint."""

    step: Count | None = None
    """Committed steps that it holds."""
    location: Text | None = None
    """Folder of the checkpoint."""
    error: Text | None = None
    """Why the newest attempt to write one failed."""


class JobStatus(Observed):
    """What the operator knows of a job."""

    conditions: Annotated[
        tuple[Condition, ...],
        Field(max_length=16, json_schema_extra=keyed_by("type")),
        AfterValidator(_most_telling_first),
    ] = ()
    """Succeeded, Failed, Suspended, Recovering, Running, PodsReady: in this order."""
    observed_generation: ObjectGeneration | None = None
    """The generation of the manifest that was last acted on."""
    start_time: Time | None = None
    """When the job was first started; anew after a suspension."""
    completion_time: Time | None = None
    """When the job succeeded or failed."""
    membership: Membership = Membership()
    """Who takes part."""
    attempts: Count = 0
    """Times that all pods of the job were created anew."""
    failures: Annotated[dict[ExitClass, Count], Field(max_length=16)] = Field(default_factory=dict)
    """Failures by class; never reset."""
    failure_times: Annotated[tuple[Time, ...], Field(max_length=1024)] = ()
    """Recent failures that count towards the budget."""
    replacements: Annotated[dict[Name, Count], Field(max_length=4096)] = Field(default_factory=dict)
    """Replacements of a pod by role and index, like worker-0; never reset."""
    promotions: Annotated[dict[Name, Name], Field(max_length=1024)] = Field(default_factory=dict)
    """Spare pods that fill the place of a worker, by that place, like worker-0."""
    replica_statuses: Annotated[
        tuple[ReplicaStatus, ...], Field(max_length=8, json_schema_extra=keyed_by("role"))
    ] = ()
    """Pods by role."""
    progress: ProgressStatus = ProgressStatus()
    """How far training is."""
    recovery: RecoveryStatus = RecoveryStatus()
    """What recovering in place has cost."""
    checkpoint: CheckpointStatus = CheckpointStatus()
    """The newest durable checkpoint."""
    message: Annotated[str, Field(max_length=32768)] | None = None
    """Why the job failed, in one sentence."""
    traceback: Annotated[str, Field(max_length=32768)] | None = None
    """The traceback of the user's own code that ended the job."""
