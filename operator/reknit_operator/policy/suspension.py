"""Where a job stands between running and suspended."""

from enum import Enum, auto

from reknit_operator.api.types import ConditionType, DistributedTrainingJob
from reknit_operator.constants import Reason


class Suspension(Enum):
    """What the suspend field asks for, seen from what the status says."""

    RUN = auto()
    """Go on."""
    RESUME = auto()
    """Start anew after a suspension, also one that had not come to its end."""
    SUSPEND = auto()
    """End the pods, or keep them away."""


def suspension(job: DistributedTrainingJob) -> Suspension:
    """What is to be done about `job`."""
    if job.spec.suspend:
        return Suspension.SUSPEND
    for condition in job.status.conditions:
        if condition.type == ConditionType.SUSPENDED and condition.reason in (
            Reason.SUSPENDING,
            Reason.SUSPENDED,
        ):
            return Suspension.RESUME
    return Suspension.RUN
