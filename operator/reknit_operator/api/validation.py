"""What spans fields: whether the parts of a job fit together."""

from reknit_operator.api.problems import Problem
from reknit_operator.api.types import DistributedTrainingJob


def validate(job: DistributedTrainingJob) -> list[Problem]:
    """Everything that keeps a well-formed job from running, in the order of the fields."""
    return []
