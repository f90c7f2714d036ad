"""Unknown, missing and mistyped fields, each in one sentence."""

import pytest

from reknit_operator.api.problems import ManifestError
from reknit_operator.api.shape import parse_object

CASES = {
    "misspelt": ({"spec.batch.mirco": 8}, "spec.batch.mirco: unknown field, did you mean micro?"),
    "wrong case": (
        {"spec.workers.minreplicas": 1},
        "spec.workers.minreplicas: unknown field, did you mean minReplicas?",
    ),
    "snake case": (
        {"spec.workers.min_replicas": 1},
        "spec.workers.min_replicas: unknown field, did you mean minReplicas?",
    ),
    "Python's name of a field": (
        {"spec.batch.global_batch": 1},
        "spec.batch.global_batch: unknown field, did you mean global?",
    ),
    "of another block": (
        {"spec.sharding": "ZeRO1"},
        "spec.sharding: unknown field, did you mean spec.parallelism.sharding?",
    ),
    "of several blocks": (
        {"spec.resources": {}},
        "spec.resources: unknown field, did you mean spec.workers.resources?",
    ),
    "of a block that few jobs have": (
        {"spec.copies": 1},
        "spec.copies: unknown field, did you mean spec.recovery.copies?",
    ),
    "of a block further below": (
        {"spec.checkpoint.hostPath": {"path": "/a"}},
        "spec.checkpoint.hostPath: unknown field, did you mean spec.checkpoint.volume.hostPath?",
    ),
    "unlike any": (
        {"spec.batch.xyz": 1},
        "spec.batch.xyz: unknown field; known here are global, micro",
    ),
    "below the top": (
        {"sepc": {}},
        "sepc: unknown field, did you mean spec?",
    ),
    "in a list": (
        {"spec.recovery.rules": [{"onExitCodes": [1], "action": "FailJob", "onReasons": 1}]},
        "spec.recovery.rules[0].onReasons: unknown field, did you mean onReason?",
    ),
    "in an optional block": (
        {"spec.checkpoint.volume": {"hostpath": {"path": "/a"}}},
        "spec.checkpoint.volume.hostpath: unknown field, did you mean hostPath?",
    ),
    "missing": ({"spec.batch.micro": ...}, "spec.batch.micro: this field is required"),
    "missing in a list": (
        {"spec.workers.template.spec.containers": [{"image": "a"}]},
        "spec.workers.template.spec.containers[0].name: this field is required",
    ),
    "missing name": ({"metadata": {}}, "metadata.name: this field is required"),
    "missing spec": ({"spec": ...}, "spec: this field is required"),
    "text for a number": (
        {"spec.batch.micro": "8"},
        'spec.batch.micro: must be a whole number, not "8"',
    ),
    "fraction for a number": (
        {"spec.seed": 0.5},
        "spec.seed: must be a whole number, not 0.5",
    ),
    "truth for a number": ({"spec.seed": True}, "spec.seed: must be a whole number, not true"),
    "number for a truth": ({"spec.suspend": 1}, "spec.suspend: must be true or false, not 1"),
    "number for text": ({"spec.image": 1}, "spec.image: must be text, not 1"),
    "number for a name": ({"metadata.name": 7}, "metadata.name: must be text, not 7"),
    "text for a list": (
        {"spec.entrypoint": {"command": "python train.py"}},
        'spec.entrypoint.command: must be a list, not "python train.py"',
    ),
    "number for a mapping": ({"spec.workers": 4}, "spec.workers: must be a mapping, not 4"),
    "null for what is required": (
        {"spec.entrypoint": None},
        "spec.entrypoint: this field is required",
    ),
    "null among amounts": (
        {"spec.workers.resources.limits": {"cpu": None}},
        "spec.workers.resources.limits.cpu: must be a whole number or text, not null",
    ),
    "list for free values": (
        {"spec.entrypoint.config": [1]},
        "spec.entrypoint.config: must be a mapping, not [1]",
    ),
    "number for a duration": (
        {"spec.checkpoint.every": 600},
        "spec.checkpoint.every: must be a duration like 90s, 10m or 1h30m, not 600",
    ),
    "no duration": (
        {"spec.checkpoint.every": "ten"},
        "spec.checkpoint.every: 'ten' is no duration, write for example 90s, 10m or 1h30m",
    ),
    "choice in lower case": (
        {"spec.parallelism.sharding": "zero2"},
        'spec.parallelism.sharding: must be None, ZeRO1, ZeRO2, ZeRO3 or FSDP, not "zero2", '
        "did you mean ZeRO2?",
    ),
    "unlike any choice": (
        {"spec.precision": "octal"},
        'spec.precision: must be FP32, BF16 or FP16, not "octal"',
    ),
    "success as a failure": (
        {"spec.recovery.rules": [{"onReason": "Succeeded", "action": "FailJob"}]},
        "spec.recovery.rules[0].onReason: must be ProgramError, Configuration, OutOfMemory, "
        "Preempted, Killed, WrongNumbers or "
        'Infrastructure, not "Succeeded"',
    ),
    "the only choice": (
        {"spec.workers.template.spec.restartPolicy": "Always"},
        'spec.workers.template.spec.restartPolicy: must be Never, not "Always"',
    ),
    "too small": (
        {"spec.workers.replicas": 0},
        "spec.workers.replicas: must be at least 1, not 0",
    ),
    "too large": (
        {"spec.workers.replicas": 5000},
        "spec.workers.replicas: must be at most 1024, not 5000",
    ),
    "beyond 64 bits": (
        {"spec.seed": 2**70},
        "spec.seed: must be at most 4294967295, not 1180591620717411303424",
    ),
    "too long": (
        {"spec.scheduling.queueName": "q" * 64},
        f'spec.scheduling.queueName: must be at most 63 characters long, not "{"q" * 56}...',
    ),
    "empty text": ({"spec.image": ""}, 'spec.image: must not be empty, not ""'),
    "empty list": (
        {"spec.entrypoint": {"command": []}},
        "spec.entrypoint.command: must not be empty, not []",
    ),
    "no function": (
        {"spec.entrypoint.function": "gpt_bytes.train"},
        'spec.entrypoint.function: must name a function as module:function, not "gpt_bytes.train"',
    ),
    "no amount": (
        {"spec.workers.resources.limits": {"memory": "16 GB"}},
        'spec.workers.resources.limits.memory: must be an amount like 4, 500m or 16Gi, not "16 GB"',
    ),
    "negative amount": (
        {"spec.workers.resources.limits": {"memory": "-1"}},
        'spec.workers.resources.limits.memory: must be an amount like 4, 500m or 16Gi, not "-1"',
    ),
    "fraction as an amount": (
        {"spec.workers.resources.limits": {"cpu": 1.5}},
        "spec.workers.resources.limits.cpu: must be a whole number or text, not 1.5",
    ),
    "relative path": (
        {"spec.checkpoint.volume": {"hostPath": {"path": "a"}}},
        'spec.checkpoint.volume.hostPath.path: must be an absolute path, not "a"',
    ),
    "exit status of success": (
        {"spec.recovery.rules": [{"onExitCodes": [1, 0], "action": "FailJob"}]},
        "spec.recovery.rules[0].onExitCodes[1]: must be at least 1, not 0",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), CASES.values(), ids=CASES)
def test_one_mistake_gives_one_sentence_that_names_the_field(changed, changes, sentence):
    with pytest.raises(ManifestError) as caught:
        parse_object(changed(changes))

    assert str(caught.value) == sentence


WITHOUT_SCHEMA = {"below the top", "missing name", "number for a name"}
"""The API server checks these without a schema of ours, or prunes them."""


@pytest.mark.parametrize("case", sorted(CASES.keys() - WITHOUT_SCHEMA))
def test_the_schema_refuses_the_same_field(api_server, changed, case):
    changes, sentence = CASES[case]

    fields = [path for path, _ in api_server.admit(changed(changes))]

    path = sentence.partition(":")[0]
    # A missing field is reported at the object that lacks it.
    assert fields == [path] or fields == [path.rpartition(".")[0]]


@pytest.mark.parametrize("path", ["spec.workers", "spec.recovery.rules", "spec.precision"])
def test_an_empty_field_has_its_default(api_server, changed, path):
    manifest = changed({path: None})

    assert parse_object(manifest) == parse_object(changed({}))
    assert api_server.admit(manifest) == []


def test_every_mistake_is_reported_at_once(changed):
    manifest = changed({"spec.batch.micro": "8", "spec.sed": 1, "spec.precision": "FP8"})

    with pytest.raises(ManifestError) as caught:
        parse_object(manifest)

    assert [problem.path for problem in caught.value.problems] == [
        "spec.batch.micro",
        "spec.precision",
        "spec.sed",
    ]


def test_metadata_and_status_keep_to_themselves_what_is_unknown(changed):
    manifest = changed({"metadata.managedFields": [], "status.somethingNewer": 1})

    assert parse_object(manifest).metadata.name == "gpt-bytes"


def test_long_values_are_shown_shortened(changed):
    with pytest.raises(ManifestError) as caught:
        parse_object(changed({"spec.workers": "x" * 1000}))

    assert len(str(caught.value)) < 120
