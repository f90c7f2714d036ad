"""The pod of a coordinator."""

from typing import Any

from reknit.protocol.settings import COORDINATOR_PORT
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.environment import coordinator_environment
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.pod import Place, build_pod
from reknit_operator.constants import (
    COORDINATOR_CONTAINER,
    COORDINATOR_GRACE,
    COORDINATOR_HOSTNAME,
    LABEL_INCARNATION,
    Role,
    coordinator_name,
)


def build_coordinator(
    job: DistributedTrainingJob,
    options: BuildOptions,
    *,
    incarnation: int,
    attempt: int,
    replacements: int,
) -> dict[str, Any]:
    """The coordinator's pod; `incarnation` must have been taken in the job's status before."""
    container: dict[str, Any] = {
        "name": COORDINATOR_CONTAINER,
        "image": options.image,
        "command": [*options.python, "-m", "reknit.coordinator"],
        "env": coordinator_environment(job, options, incarnation),
        "ports": [{"name": "coordinator", "containerPort": COORDINATOR_PORT}],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": COORDINATOR_PORT}},
    }
    pod = build_pod(
        job,
        Place(Role.COORDINATOR, 0, attempt, replacements),
        name=coordinator_name(job.metadata.name, incarnation),
        hostname=COORDINATOR_HOSTNAME,
        container=container,
        volumes=[],
        grace=COORDINATOR_GRACE,
    )
    pod["metadata"]["labels"][LABEL_INCARNATION] = str(incarnation)
    return pod
