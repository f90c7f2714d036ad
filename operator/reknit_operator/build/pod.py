"""What the pods of a job have in common."""

import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.metadata import child_metadata
from reknit_operator.constants import (
    LABEL_ATTEMPT,
    LABEL_REPLACEMENT,
    LABEL_REPLICA,
    LABEL_ROLE,
    Role,
    service_name,
)

_UNTIL_LOST: Final = [
    {
        "key": f"node.kubernetes.io/{condition}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 0,
    }
    for condition in ("not-ready", "unreachable")
]
"""Without these a pod stays for five minutes on a node that the cluster has already given up."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which pod of a job is meant: role and replica stay, attempt and replacement count up."""

    role: Role
    replica: int
    attempt: int
    replacement: int
    """Pods that had failed in this place before."""


def build_pod(
    job: DistributedTrainingJob,
    place: Place,
    *,
    name: str,
    hostname: str,
    container: dict[str, Any],
    volumes: list[dict[str, Any]],
    grace: timedelta,
) -> dict[str, Any]:
    """A pod with one container, under the restricted pod security standard."""
    metadata = child_metadata(job, name, place.role)
    metadata["labels"] |= {
        LABEL_ROLE: str(place.role),
        LABEL_REPLICA: str(place.replica),
        LABEL_ATTEMPT: str(place.attempt),
        LABEL_REPLACEMENT: str(place.replacement),
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "tolerations": copy.deepcopy(_UNTIL_LOST),
        "hostname": hostname,
        "subdomain": service_name(job.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(grace.total_seconds()),
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                **container,
                "terminationMessagePolicy": "File",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "volumes": volumes,
    }
    if job.spec.scheduling.priority_class_name is not None:
        spec["priorityClassName"] = job.spec.scheduling.priority_class_name
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
