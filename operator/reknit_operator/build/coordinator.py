"""The pod of a coordinator."""

from typing import Any, Final

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

_HEALTH: Final = {"path": "/healthz", "port": COORDINATOR_PORT}


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
        "image": options.coordinator_image,
        "command": [*options.python, "-m", "reknit.coordinator"],
        "env": coordinator_environment(job, options, incarnation),
        "ports": [{"name": "coordinator", "containerPort": COORDINATOR_PORT}],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "readinessProbe": {"httpGet": _HEALTH, "periodSeconds": 2},
        # A coordinator that hangs is ended, and replaced like one that has died.
        "livenessProbe": {
            "httpGet": _HEALTH,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
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
    spec = pod["spec"]
    spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = True
    # What lets the workers run in this namespace lets their coordinator do so; node selectors stay
    # out, for it needs none of their devices.
    wanted = job.spec.workers.template.spec.to_object()
    spec["tolerations"] += wanted.get("tolerations", [])
    if "imagePullSecrets" in wanted:
        spec["imagePullSecrets"] = wanted["imagePullSecrets"]
    return pod
