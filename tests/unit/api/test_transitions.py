"""What may change while a job runs, told alike by `validate_update` and by the API server."""

import pytest

from reknit_operator.api.shape import parse_object
from reknit_operator.api.transitions import FIXED
from reknit_operator.api.validation import validate_update

SENTENCE = "this cannot change while the job runs, set suspend to true first"

FIXED_CHANGES = {
    "entrypoint": {"spec.entrypoint.function": "gpt_bytes:other"},
    "entrypoint, only its config": {"spec.entrypoint.config": {"depth": 5}},
    "image": {"spec.image": "registry.example/gpt:2"},
    "source": {"spec.source": {"configMap": {"name": "code"}}},
    "framework": {"spec.framework": "JAX"},
    "parallelism": {"spec.parallelism.sharding": "ZeRO1"},
    "batch": {"spec.batch.micro": 4},
    "batch, removed": {"spec.batch": ...},
    "precision": {"spec.precision": "BF16"},
    "seed": {"spec.seed": 1},
    "workers.replicas": {"spec.workers.replicas": 2},
    "workers.minReplicas": {"spec.workers.minReplicas": 1},
    "workers.processesPerReplica": {"spec.workers.processesPerReplica": 2},
    "spares": {"spec.spares.replicas": 1},
    "deepspeed": {"spec.deepspeed.config": {"a": 1}},
    "recovery.copies": {"spec.recovery.copies": 2},
    "recovery.onLoss": {"spec.recovery.onLoss": "Shrink"},
    "checkpoint": {"spec.checkpoint.everySteps": 5},
    "scheduling": {"spec.scheduling.priorityClassName": "high"},
}

FREE_CHANGES = {
    "nothing": {},
    "default written out": {"spec.precision": "FP32", "spec.workers": {"replicas": 1}},
    "suspend": {"spec.suspend": True},
    "deadline": {"spec.activeDeadlineSeconds": 60},
    "time to live": {"spec.ttlSecondsAfterFinished": 60},
    "budget": {"spec.recovery.budget": {"failures": 1, "per": "1m"}},
    "rules": {"spec.recovery.rules": [{"onExitCodes": [3], "action": "FailJob"}]},
    "resources": {"spec.workers.resources.requests": {"cpu": 1}},
    "labels": {"metadata.labels": {"team": "a"}},
}


def immutable(api_server, new, old):
    return sorted(path for path, text in api_server.admit(new, old) if text == SENTENCE)


@pytest.mark.parametrize(("case", "changes"), FIXED_CHANGES.items())
def test_what_ranks_are_told_cannot_change(api_server, changed, case, changes):
    old, new = changed({}), changed(changes)

    problems = validate_update(parse_object(old), parse_object(new))

    path = f"spec.{case.partition(',')[0]}"
    assert [(problem.path, problem.sentence) for problem in problems] == [(path, SENTENCE)]
    assert immutable(api_server, new, old) == [path]


@pytest.mark.parametrize("changes", FREE_CHANGES.values(), ids=FREE_CHANGES)
def test_the_rest_may_change(api_server, changed, changes):
    old, new = changed({}), changed(changes)

    assert validate_update(parse_object(old), parse_object(new)) == []
    assert api_server.admit(new, old) == []


def test_a_suspended_job_may_change_and_resume_at_once(api_server, changed):
    old = changed({"spec.suspend": True})
    new = changed({"spec.workers.replicas": 2, "spec.seed": 7, "spec.suspend": False})

    assert validate_update(parse_object(old), parse_object(new)) == []
    assert api_server.admit(new, old) == []


def test_suspending_and_changing_at_once_is_refused(api_server, changed):
    old, new = changed({}), changed({"spec.seed": 7, "spec.suspend": True})

    assert [str(found) for found in validate_update(parse_object(old), parse_object(new))] == [
        f"spec.seed: {SENTENCE}"
    ]
    assert immutable(api_server, new, old) == ["spec.seed"]


def test_every_fixed_field_has_a_case():
    assert {case.partition(",")[0] for case in FIXED_CHANGES} == set(FIXED)
