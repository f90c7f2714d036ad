"""What spans fields: whether the parts of a job fit together."""

from reknit.protocol.settings import BatchSettings
from reknit.strategies.deepspeed_config import contradictions
from reknit_operator.api.communicationrules import COMMUNICATION_RULES
from reknit_operator.api.problems import Problem
from reknit_operator.api.rules import broken
from reknit_operator.api.ruletable import (
    ENTRYPOINT_RULES,
    FAULT_RULES,
    JOB_RULES,
    POD_RULES,
)
from reknit_operator.api.serverrules import SERVER_RULES
from reknit_operator.api.spec import JobSpec
from reknit_operator.api.trainingrules import TRAINING_RULES
from reknit_operator.api.transitions import validate_update
from reknit_operator.api.types import DistributedTrainingJob

__all__ = ["validate", "validate_update"]


def validate(job: DistributedTrainingJob) -> list[Problem]:
    """Everything that keeps a well-formed job from running, in the order of the fields.

    The API server says the same, but for the inside of a DeepSpeed configuration.
    """
    return [
        *broken(JOB_RULES + ENTRYPOINT_RULES + TRAINING_RULES, job),
        *_deepspeed_problems(job.spec),
        *broken(COMMUNICATION_RULES + SERVER_RULES + POD_RULES + FAULT_RULES, job),
    ]


def _deepspeed_problems(spec: JobSpec) -> list[Problem]:
    if not spec.parallelism.sharding.zero_stage:
        # A rule of the table says that the configuration has no effect at all.
        return []
    batch = None
    if spec.batch is not None:
        batch = BatchSettings(global_batch=spec.batch.global_batch, micro=spec.batch.micro)
    sentences = contradictions(
        spec.deepspeed.config,
        sharding=spec.parallelism.sharding,
        precision=spec.precision,
        batch=batch,
    )
    parts = (sentence.partition(": ") for sentence in sentences)
    return [Problem(path, rest) for path, _, rest in parts]
