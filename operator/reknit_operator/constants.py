"""Names that the operator's parts agree on: labels, ports, object names, reasons."""

from datetime import timedelta
from enum import StrEnum
from typing import Final

MANAGER: Final = "reknit"
"""Value of app.kubernetes.io/managed-by, and the component named in events."""

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"

LABEL_JOB: Final = "reknit.dev/job"
"""Name of the job; selects all its children."""
LABEL_JOB_UID: Final = "reknit.dev/job-uid"
"""UID of the job; tells its children from those of an earlier job of the same name."""
LABEL_ROLE: Final = "reknit.dev/role"
LABEL_REPLICA: Final = "reknit.dev/replica"
"""Index of the pod within its role; a replacement keeps it."""
LABEL_ATTEMPT: Final = "reknit.dev/attempt"
"""The job's attempt that the pod belongs to; pods of earlier attempts are removed."""
LABEL_REPLACEMENT: Final = "reknit.dev/replacement"
"""How often the replica had been replaced before this pod."""
LABEL_INCARNATION: Final = "reknit.dev/incarnation"
"""Of coordinators: the incarnation."""

COORDINATOR_HOSTNAME: Final = "coordinator"
"""First label of the coordinator's DNS name, the same for every incarnation."""
TRAINING_CONTAINER: Final = "training"
COORDINATOR_CONTAINER: Final = "coordinator"
TOKEN_KEY: Final = "token"  # noqa: S105 - the key inside the Secret, no secret
CHECKPOINT_MOUNT: Final = "/checkpoints"
SOURCE_MOUNT: Final = "/workspace"
"""Where the user's code is mounted, and where training containers then start."""
DEFAULT_IMAGE: Final = "reknit/runtime:0.1.0"
RUNTIME_GROUP: Final = 1000
"""Group of the user that the runtime image runs as."""
OPERATOR_IMAGE: Final = "reknit/operator:0.1.0"

COORDINATOR_GRACE: Final = timedelta(seconds=10)
"""What a coordinator gets to hand out its last records after SIGTERM."""
STUCK_AFTER: Final = timedelta(seconds=60)
"""A pod still there so long after its grace period is deleted without waiting for its node."""
IMAGE_PATIENCE: Final = timedelta(minutes=10)
"""How long a pod may wait for its image before that counts as a wrong configuration."""
CONCLUDING_PATIENCE: Final = timedelta(seconds=30)
"""How long the other workers may go on after the first has reported the job's success."""
INCIDENT: Final = timedelta(seconds=5)
"""Pods lost within this time of a counted failure are one incident, such as a lost rack."""
REPLACE_PERIOD: Final = timedelta(seconds=1)
"""Least time between two creations in one place, whatever the reason of the replacement."""
SPARE_PATIENCE: Final = timedelta(seconds=10)
"""How long the place of a lost worker is left to a spare that stands by before a pod is created."""
SPARE_PERIOD: Final = timedelta(seconds=30)
"""Least time between two creations in the place of a spare, whose failures have no budget."""
BACK_OFF_WINDOW: Final = timedelta(minutes=10)
BACK_OFF_MAX: Final = timedelta(seconds=60)
STATUS_PERIOD: Final = timedelta(seconds=30)
"""Figures that always move (progress) are written to the status at most this often."""

CONDITION_CONCLUDING: Final = "Concluding"
"""True from the moment the outcome is known until it is final; its reason is the outcome's."""


class Kind(StrEnum):
    """The kinds of objects that the operator reads or writes."""

    JOB = "DistributedTrainingJob"
    POD = "Pod"
    SERVICE = "Service"
    SECRET = "Secret"  # noqa: S105 - a kind, no secret
    NETWORK_POLICY = "NetworkPolicy"
    DISRUPTION_BUDGET = "PodDisruptionBudget"


class Role(StrEnum):
    """What a pod is for."""

    WORKER = "worker"
    SPARE = "spare"
    SERVER = "server"
    COORDINATOR = "coordinator"


class Reason(StrEnum):
    """Reasons of conditions and events."""

    # outcomes of a job
    COMPLETED = "Completed"
    PROGRAM_ERROR = "ProgramError"
    CONFIGURATION = "Configuration"
    RULE_MATCHED = "RuleMatched"
    TOO_MANY_RECOVERIES = "TooManyRecoveries"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    # on the way
    STARTED = "Started"
    RESUMED = "Resumed"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    NOT_SUSPENDED = "NotSuspended"
    RESTARTED = "Restarted"
    POD_REPLACED = "PodReplaced"
    POD_PREEMPTED = "PodPreempted"
    SPARE_PROMOTED = "SparePromoted"
    COORDINATOR_REPLACED = "CoordinatorReplaced"
    RECONCILE_FAILED = "ReconcileFailed"
    PODS_MISSING = "PodsMissing"
    PODS_WAITING = "PodsWaiting"
    ALL_PODS_READY = "AllPodsReady"
    WAITING = "WaitingForRanks"
    TRAINING = "Training"
    RECOVERING = "Recovering"
    RECOVERED = "NothingToRecover"
    ENDED = "Ended"


def service_name(job: str) -> str:
    """The headless Service that gives the pods of `job` their DNS names."""
    return job


def secret_name(job: str) -> str:
    """The Secret with the token of `job`."""
    return f"{job}-token"


def policy_name(job: str) -> str:
    """The NetworkPolicy of the pods of `job`."""
    return job


def budget_name(job: str) -> str:
    """The PodDisruptionBudget of the workers of `job`."""
    return f"{job}-workers"


def coordinator_name(job: str, incarnation: int) -> str:
    """The pod of the coordinator with this incarnation."""
    return f"{job}-coordinator-{incarnation}"


def training_pod_name(
    job: str, role: Role, replica: int, *, attempt: int, replacements: int
) -> str:
    """The pod of one worker or spare.

    Attempts and replacements only ever grow, and each new pod of a replica raises at least one of
    them, so their sum numbers the pods of a replica without repetition.
    """
    number = attempt - 1 + replacements
    return f"{job}-{role}-{replica}" + (f"-{number}" if number else "")


def replica_key(role: str, replica: int) -> str:
    """Key of one place in `status.replacements`."""
    return f"{role}-{replica}"
