"""What the operator knows of one job at one moment: frozen values, the input of `decide`."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from reknit.protocol.outcome import Conclusion
from reknit.protocol.status import CoordinatorStatus
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import Kind


class PodPhase(StrEnum):
    """A pod's own phases; Unknown is what a lost node leaves behind."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Ref:
    """Names one object; with a UID exactly one, not another of the same name."""

    kind: Kind
    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the job, reduced to what decisions need."""

    ref: Ref
    role: str
    replica: int
    attempt: int
    replacement: int
    """Pods that had failed in its place before it."""
    phase: PodPhase
    created: datetime
    incarnation: int = 0
    """Of coordinators."""
    ready: bool = False
    deleted: datetime | None = None
    """When a pod being deleted must be gone: request plus grace period."""
    stopped: bool = False
    """All of its containers have terminated: no process of it runs anywhere."""
    finished: datetime | None = None
    exit_code: int | None = None
    reason: str | None = None
    """Why it failed in Kubernetes' words: of the disruption, else the pod, else the container."""
    waiting: str | None = None
    """Why its container cannot start yet, e.g. ImagePullBackOff or Unschedulable."""
    conclusion: Conclusion | None = None
    """What its agent wrote as termination message."""
    node: str = ""
    address: str = ""

    @property
    def ended(self) -> bool:
        """Whether its container has stopped for good."""
        return self.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted and has not stopped yet."""
        return self.deleted is not None and not self.ended


@dataclass(frozen=True, slots=True)
class Observed:
    """One job with everything that belongs to it."""

    job: DistributedTrainingJob
    pods: tuple[Pod, ...] = ()
    """Of this job's UID, sorted by name."""
    passive: tuple[Ref, ...] = ()
    """Objects of the job that run nothing: Secret, Service, NetworkPolicy, PodDisruptionBudget."""
    coordinator: CoordinatorStatus | None = None
    """Last answer of the coordinator, None if none is known."""
    written: datetime | None = None
    """When this operator last wrote the job's status; None after its restart."""
    new_token: str = field(default="", repr=False)
    """Fresh randomness, for a Secret that does not exist yet."""
    options: BuildOptions = field(default_factory=BuildOptions)
