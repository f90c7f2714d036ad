"""The types themselves: names, round trips, and what the status keeps in order."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reknit.protocol.outcome import ExitClass
from reknit_operator.api.shape import parse_object
from reknit_operator.api.types import (
    Budget,
    Checkpoint,
    Condition,
    ConditionType,
    DistributedTrainingJob,
    Entrypoint,
    JobStatus,
    Metadata,
    ProgressStatus,
    RecoveryStatus,
    ReplicaStatus,
    Volume,
    Workers,
)

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def condition(kind: str, status: str = "True") -> Condition:
    return Condition.model_validate(
        {"type": kind, "status": status, "reason": "Because", "last_transition_time": NOON}
    )


def test_a_job_survives_the_way_to_an_object_and_back(changed):
    manifest = changed(
        {
            "spec.entrypoint.config": {"a": None, "b": {"c": [None, 1.5]}},
            "spec.workers.template.spec": {
                "tolerations": [{"key": "gpu"}],
                "containers": [{"name": "training", "env": [{"name": "A", "value": "b"}]}],
            },
            "spec.checkpoint": {"everySteps": 5},
            "spec.recovery.budget.per": "90s",
            "metadata.labels": {"team": "a"},
        }
    )
    job = parse_object(manifest)

    again = parse_object(job.to_object())

    assert again == job
    assert again.to_object() == job.to_object()
    assert job.to_object()["spec"]["entrypoint"]["config"] == {"a": None, "b": {"c": [None, 1.5]}}
    assert job.to_object()["spec"]["workers"]["template"]["spec"]["tolerations"] == [{"key": "gpu"}]


def test_a_status_survives_the_way_to_an_object_and_back(changed):
    status = JobStatus(
        conditions=(condition("Running"), condition("Suspended", "False")),
        observed_generation=3,
        start_time=NOON,
        failures={ExitClass.OUT_OF_MEMORY: 2},
        failure_times=(NOON, NOON + timedelta(seconds=5)),
        replacements={"worker-0": 1},
        replica_statuses=(ReplicaStatus(role="worker", desired=4, ready=3),),
        progress=ProgressStatus(step=7, loss=2.34567891, samples_per_second=0.5),
        recovery=RecoveryStatus(count=1, last_seconds=0.43),
        message="out of memory",
    )
    job = parse_object(changed({"status": status.to_object()}))

    assert job.status == status
    assert status.to_object()["failures"] == {"OutOfMemory": 2}
    assert status.to_object()["progress"] == {
        "step": 7,
        "loss": "2.34568",
        "samplesPerSecond": "0.5",
    }


def test_the_schema_accepts_a_full_status(api_server, changed):
    status = JobStatus(
        conditions=tuple(condition(kind) for kind in ConditionType),
        start_time=NOON,
        completion_time=NOON,
        failures=dict.fromkeys(ExitClass, 1),
        failure_times=(NOON,),
        replacements={"worker-0": 1},
        replica_statuses=(ReplicaStatus(role="worker"),),
        progress=ProgressStatus(loss=float("nan"), estimated_completion_time=NOON),
        traceback="Traceback",
    )

    assert api_server.admit(changed({"status": status.to_object()})) == []


def test_the_most_telling_condition_comes_first():
    status = JobStatus(
        conditions=tuple(
            condition(kind) for kind in ("Other", "PodsReady", "Running", "Recovering", "Failed")
        )
    )

    assert [found.type for found in status.conditions] == [
        "Failed",
        "Recovering",
        "Running",
        "PodsReady",
        "Other",
    ]


def test_times_have_whole_seconds_in_utc():
    zone = timezone(timedelta(hours=2))
    time = datetime(2026, 5, 1, 14, 0, 0, 999999, tzinfo=zone)

    status = JobStatus(start_time=time)

    assert status.start_time == NOON
    assert status.to_object()["startTime"] == "2026-05-01T12:00:00Z"


def test_a_time_without_zone_is_refused():
    with pytest.raises(ValidationError, match="timezone"):
        JobStatus(start_time=datetime(2026, 5, 1))


@given(st.floats(allow_nan=False))
def test_figures_are_the_same_after_a_round_trip(figure):
    status = ProgressStatus(loss=figure)

    again = ProgressStatus.model_validate(status.to_object())

    assert again == status
    assert status.loss == pytest.approx(figure, rel=1e-5)


def test_spec_parts_are_immutable_and_strict():
    with pytest.raises(ValidationError, match="frozen"):
        Budget().failures = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Budget.model_validate({"failure": 3})


def test_names_in_python_and_in_manifests():
    assert Workers(min_replicas=1).to_object()["minReplicas"] == 1
    assert Workers.model_validate({"minReplicas": 1}).min_replicas == 1


def test_defaults_of_the_smallest_object():
    job = DistributedTrainingJob.model_validate(
        {"metadata": {"name": "a"}, "spec": {"entrypoint": {"command": ["true"]}}}
    )

    assert job.api_version == "reknit.dev/v1alpha1"
    assert job.metadata == Metadata(name="a", namespace="default")
    assert job.status == JobStatus()
    assert job.spec.entrypoint == Entrypoint(command=("true",))


@pytest.mark.parametrize(
    ("given", "every", "every_steps"),
    [
        ({}, timedelta(minutes=10), None),
        ({"every": "90s"}, timedelta(seconds=90), None),
        ({"everySteps": 50}, None, 50),
        ({"every": "1h", "everySteps": 50}, timedelta(hours=1), 50),
    ],
)
def test_a_period_in_steps_alone_turns_the_clock_off(given, every, every_steps):
    checkpoint = Checkpoint.model_validate(given)

    assert (checkpoint.every, checkpoint.every_steps) == (every, every_steps)
    assert Checkpoint.model_validate(checkpoint.to_object()) == checkpoint


def test_reading_a_manifest_loads_neither_torch_nor_a_cluster_client():
    program = (
        "import sys, reknit_operator.api.load, reknit_operator.api.crd;"
        "print(sorted({'torch', 'kopf', 'kubernetes', 'asyncio'} & set(sys.modules)))"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_fewest_replicas():
    assert Workers(replicas=4).fewest_replicas == 4
    assert Workers(replicas=4, min_replicas=2).fewest_replicas == 2
    assert Workers(replicas=4, processes_per_replica=8).world_size == 32


def test_a_volume_is_what_a_pod_needs_to_mount_it():
    volume = Volume.model_validate({"persistentVolumeClaim": {"claimName": "ckpt"}})

    assert volume.source() == {"persistentVolumeClaim": {"claimName": "ckpt"}}
