"""What a manifest asks for that only a cluster can give."""

from typing import Any

import pytest

from manifests import CONTAINERS, SOUND, change
from reknit_operator.api.shape import parse_object
from reknit_operator.cli.localrun import left_out, obstacles


def found(changes: dict[str, Any]) -> list[str]:
    return list(left_out(parse_object(change(changes))))


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({"spec.image": "a"}, ["image"]),
        (SOUND["code in a ConfigMap"], ["source"]),
        (SOUND["resources"], ["workers.resources"]),
        ({"spec.scheduling.priorityClassName": "high"}, ["scheduling.priorityClassName"]),
        ({"spec.checkpoint.volume": {"hostPath": {"path": "/a"}}}, ["checkpoint.volume"]),
        (
            {"spec.parameterServers": {"replicas": 2, "resources": {"limits": {"cpu": 1}}}},
            ["parameterServers.resources"],
        ),
        (
            SOUND["template"],
            [
                "workers.template.metadata",
                "workers.template.spec.containers",
                "workers.template.spec.tolerations",
            ],
        ),
        (
            {CONTAINERS: [{"name": "training", "volumeMounts": []}]},
            ["workers.template.spec.containers"],
        ),
    ],
)
def test_what_a_local_run_leaves_out_is_named(changes: dict[str, Any], paths: list[str]) -> None:
    assert found(changes) == paths


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {CONTAINERS: [{"name": "training", "env": [{"name": "A", "value": "1"}]}]},
        {"spec.workers.template.spec.terminationGracePeriodSeconds": 5},
        {"spec.checkpoint.everySteps": 5, "spec.activeDeadlineSeconds": 60, "spec.seed": 3},
    ],
)
def test_what_a_local_run_uses_is_not_named(changes: dict[str, Any]) -> None:
    assert found(changes) == []


def test_what_would_be_waited_for_is_refused() -> None:
    secret = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    field = {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    job = parse_object(
        change(
            {
                "spec.suspend": True,
                CONTAINERS: [
                    {"name": "training", "env": [secret, field]},
                    {"name": "log", "env": [secret]},
                ],
            }
        )
    )
    suspend, variable = obstacles(job)
    assert "set suspend to false" in suspend
    assert "KEY" in variable
    assert list(obstacles(parse_object(change({})))) == []
