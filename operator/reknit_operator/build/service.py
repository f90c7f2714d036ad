"""The headless Service of a job: DNS names for its pods."""

from typing import Any

from reknit.protocol.settings import COORDINATOR_PORT
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.metadata import child_metadata, child_selector
from reknit_operator.constants import service_name


def build_service(job: DistributedTrainingJob) -> dict[str, Any]:
    """The Service of `job`.

    Addresses are published before pods are ready: agents look for the coordinator while both
    start, and retry by themselves.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(job, service_name(job.metadata.name), "service"),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": child_selector(job),
            "ports": [
                {"name": "coordinator", "port": COORDINATOR_PORT, "targetPort": COORDINATOR_PORT}
            ],
        },
    }
