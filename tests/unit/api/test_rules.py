"""Every rule, told in the same words by `reknit validate` and by the API server."""

import pytest

from brokenmanifests import BROKEN
from manifests import CONTAINERS, SOUND
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
            "spec.scheduling.queueName": "a",
        }
    )

    problems = validate(parse_object(manifest))

    assert [(problem.path, "remove it" in problem.sentence) for problem in problems] == [
        ("spec.deepspeed.config.train_batch_size", True),
        ("spec.deepspeed.config.zero_optimization.stage", True),
        ("spec.scheduling.queueName", False),
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
            "spec.scheduling.queueName": "a",
        }
    )

    assert [problem.path for problem in validate(parse_object(manifest))] == [
        "metadata.name",
        "spec.batch.micro",
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
    assert job.spec.recovery.process_budget.to_object() == {"failures": 1000, "per": "1h"}
    assert job.spec.checkpoint.to_object() == {"every": "10m", "keep": 3}
