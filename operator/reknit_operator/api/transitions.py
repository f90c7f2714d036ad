"""What cannot change while a job runs: everything that its ranks are told when they start."""

from typing import Final

from reknit_operator.api.problems import Problem
from reknit_operator.api.rules import cel_message
from reknit_operator.api.types import DistributedTrainingJob

FIXED: Final = (
    "entrypoint",
    "image",
    "source",
    "framework",
    "parallelism",
    "batch",
    "precision",
    "seed",
    "workers.replicas",
    "workers.minReplicas",
    "workers.processesPerReplica",
    "spares",
    "parameterServers",
    "deepspeed",
    "communication",
    "recovery.copies",
    "recovery.onLoss",
    "recovery.processBudget",
    "recovery.wrongNumbers",
    "checkpoint",
    "scheduling",
)
"""Fields of the spec that only a suspended job may change."""

_SENTENCE: Final = "this cannot change while the job runs, set suspend to true first"


def validate_update(old: DistributedTrainingJob, new: DistributedTrainingJob) -> list[Problem]:
    """What in `new` may not follow on `old`; changing and suspending are two separate updates."""
    if old.spec.suspend:
        return []
    before, after = old.spec.to_object(), new.spec.to_object()
    return [
        Problem(f"spec.{path}", _SENTENCE)
        for path in FIXED
        if _value_at(before, path) != _value_at(after, path)
    ]


def transition_rules(optional: frozenset[str]) -> list[dict[str, str]]:
    """The same as entries of x-kubernetes-validations of the spec.

    Args:
        optional: those of `FIXED` that may be absent, because they have no default.
    """
    return [
        {
            "rule": f"oldSelf.suspend || {_unchanged(path, path in optional)}",
            "fieldPath": f".{path}",
            **cel_message(_SENTENCE, {}),
        }
        for path in FIXED
    ]


def _unchanged(path: str, optional: bool) -> str:
    same = f"self.{path} == oldSelf.{path}"
    if not optional:
        return same
    return f"(has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {same}))"


def _value_at(value: object, path: str) -> object:
    for step in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value
