"""The DistributedTrainingJob. Other packages import every API type from here."""

from typing import Final, Literal

from pydantic import Field

from reknit.layout import Degrees, Precision, Sharding
from reknit.protocol.outcome import ExitClass
from reknit.protocol.settings import Framework, OnLoss
from reknit_operator.api.base import Observed, Part, Time
from reknit_operator.api.pods import (
    ContainerTemplate,
    EnvironmentVariable,
    ParameterServers,
    PodSpecTemplate,
    PodTemplate,
    Quantity,
    Resources,
    Source,
    Spares,
    TemplateMetadata,
    Volume,
    Workers,
)
from reknit_operator.api.recovery import (
    Budget,
    Checkpoint,
    CountsTowards,
    Recovery,
    Rule,
    RuleAction,
)
from reknit_operator.api.spec import (
    Batch,
    DeepSpeed,
    Entrypoint,
    JobSpec,
    Parallelism,
    Pipeline,
    Scheduling,
)
from reknit_operator.api.status import (
    CheckpointStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    JobStatus,
    Membership,
    ProgressStatus,
    RecoveryStatus,
    ReplicaStatus,
)

GROUP: Final = "reknit.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "reknit.dev/v1alpha1"
KIND: Final = "DistributedTrainingJob"
PLURAL: Final = "distributedtrainingjobs"

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "Batch",
    "Budget",
    "Checkpoint",
    "CheckpointStatus",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "ContainerTemplate",
    "CountsTowards",
    "DeepSpeed",
    "Degrees",
    "DistributedTrainingJob",
    "Entrypoint",
    "EnvironmentVariable",
    "ExitClass",
    "Framework",
    "JobSpec",
    "JobStatus",
    "Membership",
    "Metadata",
    "OnLoss",
    "Parallelism",
    "ParameterServers",
    "Pipeline",
    "PodSpecTemplate",
    "PodTemplate",
    "Precision",
    "ProgressStatus",
    "Quantity",
    "Recovery",
    "RecoveryStatus",
    "ReplicaStatus",
    "Resources",
    "Rule",
    "RuleAction",
    "Scheduling",
    "Sharding",
    "Source",
    "Spares",
    "TemplateMetadata",
    "Volume",
    "Workers",
]


class Metadata(Observed):
    """The object's metadata, as far as Reknit reads it."""

    name: str
    """Name of the job."""
    namespace: str = "default"
    """Namespace of the job and its pods."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the job."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the job."""
    uid: str = ""
    """Unique in space and time; given by the API server."""
    generation: int = 0
    """Counts changes of the spec; given by the API server."""
    resource_version: str = ""
    """Changes with every write; given by the API server."""
    creation_timestamp: Time | None = None
    """When the job was created."""
    deletion_timestamp: Time | None = None
    """When the job was deleted; it is going away."""


class DistributedTrainingJob(Part):
    """A training program, how it is to be distributed, and what has become of it."""

    api_version: Literal["reknit.dev/v1alpha1"] = API_VERSION
    """Version of this type."""
    kind: Literal["DistributedTrainingJob"] = KIND
    """Name of this type."""
    metadata: Metadata
    """Name, namespace and what the API server keeps of the object."""
    spec: JobSpec
    """What the user asks for."""
    status: JobStatus = JobStatus()
    """What the operator knows of the job."""
