"""What spans fields: whether the parts of a job fit together."""

from reknit_operator.api.problems import Problem
from reknit_operator.api.rules import broken
from reknit_operator.api.ruletable import RULES
from reknit_operator.api.transitions import validate_update
from reknit_operator.api.types import DistributedTrainingJob

__all__ = ["validate", "validate_update"]


def validate(job: DistributedTrainingJob) -> list[Problem]:
    """Everything that keeps a well-formed job from running, in the order of the fields."""
    return broken(RULES, job)
