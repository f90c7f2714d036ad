"""Every rule, told in the same words by `reknit validate` and by the API server."""

import pytest

from reknit.agent.environment import command_environment
from reknit.layout import Degrees
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.ranks import Assign
from reknit.protocol.settings import Framework, JobSettings
from reknit_operator.api.reserved import NAMES, PREFIXES
from reknit_operator.api.rules import parts_at
from reknit_operator.api.ruletable import RULES
from reknit_operator.api.shape import parse_object
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.api.validation import validate

COMMAND = {"spec.entrypoint": {"command": ["python", "train.py"]}, "spec.batch": ...}
CONTAINERS = "spec.workers.template.spec.containers"

BROKEN = {
    "name with capitals": (
        {"metadata.name": "GPT"},
        "metadata.name",
        "the name GPT must be lower-case letters, digits and dashes, begin with a letter and not "
        "end with a dash",
    ),
    "name that begins with a digit": (
        {"metadata.name": "3b"},
        "metadata.name",
        "the name 3b must be lower-case letters, digits and dashes, begin with a letter and not "
        "end with a dash",
    ),
    "name too long": (
        {"metadata.name": "g" * 41},
        "metadata.name",
        "the name has 41 characters, use at most 40, because names of pods are made from it",
    ),
    "function and command": (
        {"spec.entrypoint.command": ["python"]},
        "spec.entrypoint",
        "give exactly one of function and command",
    ),
    "neither function nor command": (
        {"spec.entrypoint": {}, "spec.batch": ...},
        "spec.entrypoint",
        "give exactly one of function and command",
    ),
    "config for a command": (
        COMMAND | {"spec.entrypoint": {"command": ["python"], "config": {"lr": 0.1}}},
        "spec.entrypoint.config",
        "a command gets no config, put the values into its arguments or environment",
    ),
    "framework for a function": (
        {"spec.framework": "JAX"},
        "spec.framework",
        "a function runs under PyTorch, remove framework or give a command",
    ),
    "sharding for a command": (
        COMMAND | {"spec.parallelism": {"sharding": "ZeRO1"}},
        "spec.parallelism",
        "a command divides the world by itself, remove parallelism or give a function",
    ),
    "degree for a command": (
        COMMAND | {"spec.parallelism": {"data": 1}},
        "spec.parallelism",
        "a command divides the world by itself, remove parallelism or give a function",
    ),
    "batch for a command": (
        COMMAND | {"spec.batch": {"global": 8, "micro": 8}},
        "spec.batch",
        "a command makes its own batches, remove batch or give a function",
    ),
    "precision for a command": (
        COMMAND | {"spec.precision": "BF16"},
        "spec.precision",
        "a command chooses its own number format, remove precision or give a function",
    ),
    "copies for a command": (
        COMMAND | {"spec.recovery.copies": 2},
        "spec.recovery.copies",
        "the state of a command is not known and cannot be copied, remove copies or give a "
        "function",
    ),
    "pipeline stages": (
        {"spec.parallelism.pipeline.stages": 2, "spec.workers.replicas": 2},
        "spec.parallelism.pipeline.stages",
        "this version cannot cut a model into stages, set stages to 1",
    ),
    "tensor parallelism": (
        {"spec.parallelism.tensor": 2, "spec.workers.replicas": 4},
        "spec.parallelism.tensor",
        "this version cannot cut single layers, set tensor to 1",
    ),
    "degrees below the world": (
        {"spec.parallelism.data": 3, "spec.workers.replicas": 2},
        "spec.parallelism",
        "data 3 x pipeline 1 x tensor 1 does not multiply to the world of 2 ranks, set data to -1 "
        "or change workers",
    ),
    "degree of zero": (
        {"spec.parallelism.data": 0},
        "spec.parallelism",
        "data 0 x pipeline 1 x tensor 1 does not multiply to the world of 1 ranks, set data to -1 "
        "or change workers",
    ),
    "fixed degree of a world that shrinks": (
        {
            "spec.parallelism.data": 4,
            "spec.workers": {"replicas": 4, "minReplicas": 2},
            "spec.recovery.onLoss": "Shrink",
        },
        "spec.parallelism.data",
        "data 4 leaves no room for the world to shrink, set data to -1 or remove "
        "workers.minReplicas",
    ),
    "function without batch": (
        {"spec.batch": ...},
        "spec.batch",
        "a function needs batch sizes, add batch with global and micro",
    ),
    "micro does not divide global": (
        {"spec.batch.micro": 7},
        "spec.batch.micro",
        "the global batch of 64 samples is no multiple of the micro-batch of 7, change one of them",
    ),
    "micro above global": (
        {"spec.batch": {"global": 4, "micro": 8}},
        "spec.batch.micro",
        "the global batch of 4 samples is no multiple of the micro-batch of 8, change one of them",
    ),
    "DeepSpeed configuration without DeepSpeed": (
        {"spec.deepspeed.config": {"zero_optimization": {"overlap_comm": True}}},
        "spec.deepspeed.config",
        "this configuration has no effect without DeepSpeed, set parallelism.sharding to ZeRO1, "
        "ZeRO2 or ZeRO3, or remove it",
    ),
    "minReplicas above replicas": (
        {"spec.workers": {"replicas": 2, "minReplicas": 3}},
        "spec.workers.minReplicas",
        "minReplicas 3 is more than replicas 2, lower minReplicas or raise replicas",
    ),
    "minReplicas without shrinking": (
        {"spec.workers": {"replicas": 4, "minReplicas": 3}},
        "spec.workers.minReplicas",
        "fewer workers are only used to shrink, set recovery.onLoss to Shrink or remove "
        "minReplicas",
    ),
    "shrinking without minReplicas": (
        {"spec.workers.replicas": 4, "spec.recovery.onLoss": "Shrink"},
        "spec.recovery.onLoss",
        "to shrink, set workers.minReplicas to less than workers.replicas",
    ),
    "image of the training container": (
        {CONTAINERS: [{"name": "training", "image": "mine:1"}]},
        f"{CONTAINERS}[0]",
        "the training container takes its image from spec.image, its program from spec.entrypoint "
        "and its resources from spec.workers.resources, set them there",
    ),
    "reserved variable": (
        {CONTAINERS: [{"name": "log"}, {"name": "training", "env": [{"name": "RANK"}]}]},
        f"{CONTAINERS}[1].env[0].name",
        "Reknit sets the variable RANK itself, choose another name",
    ),
    "variable with a reserved prefix": (
        {CONTAINERS: [{"name": "training", "env": [{"name": "A"}, {"name": "REKNIT_JOB"}]}]},
        f"{CONTAINERS}[0].env[1].name",
        "Reknit sets the variable REKNIT_JOB itself, choose another name",
    ),
    "spare pods": (
        {"spec.spares.replicas": 1},
        "spec.spares.replicas",
        "this version keeps no spare pods, set replicas to 0",
    ),
    "rule without a condition": (
        {"spec.recovery.rules": [{"onExitCodes": [3], "action": "FailJob"}, {"action": "FailJob"}]},
        "spec.recovery.rules[1]",
        "this rule would match nothing, give onExitCodes, onReason or both",
    ),
    "volume without a kind": (
        {"spec.checkpoint.volume": {}},
        "spec.checkpoint.volume",
        "give exactly one of persistentVolumeClaim, nfs and hostPath",
    ),
    "volume of two kinds": (
        {
            "spec.checkpoint.volume": {
                "persistentVolumeClaim": {"claimName": "c"},
                "hostPath": {"path": "/mnt"},
            }
        },
        "spec.checkpoint.volume",
        "give exactly one of persistentVolumeClaim, nfs and hostPath",
    ),
    "source without a kind": (
        {"spec.source": {}},
        "spec.source",
        "give exactly one of configMap, persistentVolumeClaim, nfs and hostPath",
    ),
    "source of two kinds": (
        {"spec.source": {"configMap": {"name": "code"}, "hostPath": {"path": "/code"}}},
        "spec.source",
        "give exactly one of configMap, persistentVolumeClaim, nfs and hostPath",
    ),
    "gang": (
        {"spec.scheduling.gang": "PodGroup"},
        "spec.scheduling.gang",
        "this version schedules each pod alone, remove gang",
    ),
    "queue": (
        {"spec.scheduling.queueName": "team-a"},
        "spec.scheduling.queueName",
        "this version knows no queues, remove queueName",
    ),
}

SOUND = {
    "shortest": {},
    "command": COMMAND,
    "command of another framework": COMMAND | {"spec.framework": "TensorFlow"},
    "empty config of a command": COMMAND
    | {"spec.entrypoint": {"command": ["python"], "config": {}}},
    "config with null": {"spec.entrypoint.config": {"a": None, "b": [1, {"c": 2.5}]}},
    "longest name": {"metadata.name": "g" * 40},
    "name of one letter": {"metadata.name": "g"},
    "degree that is the world": {
        "spec.parallelism.data": 6,
        "spec.workers": {"replicas": 3, "processesPerReplica": 2},
    },
    "uneven number of ranks": {"spec.workers.replicas": 5},
    "ZeRO": {
        "spec.parallelism.sharding": "ZeRO3",
        "spec.deepspeed.config": {"zero_optimization": {"overlap_comm": True}},
    },
    "shrinking": {
        "spec.workers": {"replicas": 4, "minReplicas": 2},
        "spec.recovery.onLoss": "Shrink",
    },
    "no copies": {"spec.recovery.copies": 0, "spec.parallelism.sharding": "ZeRO1"},
    "two copies": {"spec.recovery.copies": 2, "spec.parallelism.sharding": "ZeRO1"},
    "minReplicas of all": {"spec.workers": {"replicas": 4, "minReplicas": 4}},
    "template": {
        CONTAINERS: [
            {"name": "training", "env": [{"name": "RANKS", "value": "1"}], "volumeMounts": []},
            {"name": "log", "image": "log:1", "args": ["-f"]},
        ],
        "spec.workers.template.spec.tolerations": [{"key": "gpu"}],
        "spec.workers.template.metadata.labels": {"team": "a"},
    },
    "resources": {
        "spec.workers.resources": {
            "requests": {"cpu": "500m", "memory": "1.5Gi"},
            "limits": {"nvidia.com/gpu": 1},
        }
    },
    "rules": {
        "spec.recovery.rules": [
            {"onExitCodes": [3], "action": "FailJob"},
            {"onReason": "Preempted", "action": "ReplacePod", "countsTowards": "Preemptions"},
        ],
        "spec.recovery.budget": {"failures": 3, "per": "30m"},
    },
    "checkpoints": {
        "spec.checkpoint": {
            "volume": {"nfs": {"server": "files", "path": "/training"}},
            "every": "1h30m",
            "everySteps": 100,
            "keep": 1,
        }
    },
    "code in a ConfigMap": {"spec.source": {"configMap": {"name": "gpt-bytes"}}},
    "the rest": {
        "spec.image": "registry.example/gpt:1",
        "spec.precision": "BF16",
        "spec.seed": 2**32 - 1,
        "spec.suspend": True,
        "spec.scheduling.priorityClassName": "high",
        "spec.activeDeadlineSeconds": 86400,
        "spec.ttlSecondsAfterFinished": 0,
    },
}


@pytest.mark.parametrize(("changes", "path", "sentence"), BROKEN.values(), ids=BROKEN)
def test_both_sides_say_the_same_sentence(api_server, changed, changes, path, sentence):
    manifest = changed(changes)

    problems = [(found.path, found.sentence) for found in validate(parse_object(manifest))]

    assert (path, sentence) in problems
    assert sorted(api_server.admit(manifest)) == sorted(problems)


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND)
def test_both_sides_accept_a_sound_job(api_server, changed, changes):
    manifest = changed(changes)

    assert validate(parse_object(manifest)) == []
    assert api_server.admit(manifest) == []


def test_containers_of_the_same_name_are_refused(api_server, changed):
    manifest = changed({CONTAINERS: [{"name": "log"}, {"name": "log"}]})

    problems = validate(parse_object(manifest))

    assert [str(problem) for problem in problems] == [
        f"{CONTAINERS}: two containers have the same name, give each its own"
    ]
    containers = api_server.schema
    for step in CONTAINERS.split("."):
        containers = containers["properties"][step]
    assert containers["x-kubernetes-list-map-keys"] == ["name"]


def test_a_deepspeed_configuration_that_contradicts_the_job_is_refused(changed):
    manifest = changed(
        {
            "spec.parallelism.sharding": "ZeRO2",
            "spec.deepspeed.config": {
                "train_batch_size": 32,
                "train_micro_batch_size_per_gpu": 8,
                "zero_optimization": {"stage": 3, "reduce_bucket_size": 1000},
            },
            "spec.spares.replicas": 1,
        }
    )

    problems = validate(parse_object(manifest))

    assert [(problem.path, "remove it" in problem.sentence) for problem in problems] == [
        ("spec.deepspeed.config.train_batch_size", True),
        ("spec.deepspeed.config.zero_optimization.stage", True),
        ("spec.spares.replicas", False),
    ]


def test_every_rule_is_broken_by_a_case(changed):
    jobs = [parse_object(changed(changes)) for changes, _, _ in BROKEN.values()]
    jobs.append(parse_object(changed({CONTAINERS: [{"name": "log"}, {"name": "log"}]})))

    unbroken = [
        rule.sentence
        for rule in RULES
        if all(rule.holds(part) for job in jobs for _, part in parts_at(job, rule.scope))
    ]

    assert unbroken == []


def test_no_rule_is_left_to_python_but_the_unique_names():
    assert [rule.field for rule in RULES if rule.cel is None] == ["containers"]


def test_sentences_are_one_sentence_without_a_final_period():
    for rule in RULES:
        assert "\n" not in rule.sentence
        assert not rule.sentence.endswith(".")
        assert ". " not in rule.sentence


def test_several_problems_come_in_the_order_of_the_fields(changed):
    manifest = changed(
        {
            "metadata.name": "G",
            "spec.batch.micro": 7,
            "spec.spares.replicas": 2,
            "spec.scheduling.queueName": "a",
        }
    )

    assert [problem.path for problem in validate(parse_object(manifest))] == [
        "metadata.name",
        "spec.batch.micro",
        "spec.spares.replicas",
        "spec.scheduling.queueName",
    ]


def test_parts_at_leaves_out_absent_objects(changed):
    job = parse_object(changed({"spec.batch": ..., "spec.recovery.rules": []}))

    assert list(parts_at(job, "spec.batch")) == []
    assert list(parts_at(job, "spec.recovery.rules[]")) == []
    assert list(parts_at(job, "")) == [("", job)]


@pytest.mark.parametrize("framework", Framework)
def test_every_variable_that_a_rank_gets_is_reserved(framework):
    settings = JobSettings(name="a", command=("true",), framework=framework, degrees=Degrees())
    place = Assign(
        generation=Generation(incarnation=1, counter=1),
        rank=0,
        world_size=2,
        local_rank=0,
        local_world_size=2,
        group_rank=0,
        store=Endpoint(host="10.0.0.1", port=4000),
        hosts=("10.0.0.1", "10.0.0.1"),
    )

    names = command_environment(settings, place)

    assert {name for name in names if not name.startswith(PREFIXES)} <= set(NAMES)


def test_the_shortest_job_has_the_documented_defaults(api_server, changed):
    job = parse_object(changed({}))

    assert isinstance(job, DistributedTrainingJob)
    assert job.spec.workers.world_size == 1
    assert job.spec.parallelism.degrees.resolve(1) == Degrees(data=1)
    assert job.spec.recovery.copies == 1
    assert job.spec.recovery.budget.to_object() == {"failures": 10, "per": "1h"}
    assert job.spec.checkpoint.to_object() == {"every": "10m", "keep": 3}
