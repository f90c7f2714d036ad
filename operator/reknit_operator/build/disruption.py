"""The PodDisruptionBudget of a job: how many of its pods a drain may take at a time."""

from typing import Any

from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.metadata import child_metadata, child_selector
from reknit_operator.constants import LABEL_ROLE, Role, budget_name


def build_disruption_budget(job: DistributedTrainingJob) -> dict[str, Any]:
    """Lets evictions take one pod of `job`, and the next one when that has been replaced.

    With spare pods, as many more: each stands for a worker. Parameter servers count like workers.

    A number of pods that must stay, for Kubernetes can count back from a whole only where it knows
    the owner's number of replicas. Pods that are not ready protect nothing and may always go.
    """
    servers = job.spec.parameter_servers
    roles = [Role.WORKER, Role.SPARE, *([] if servers is None else [Role.SERVER])]
    num_needed = job.spec.workers.replicas + (0 if servers is None else servers.replicas)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(job, budget_name(job.metadata.name), "disruption-budget"),
        "spec": {
            "minAvailable": num_needed - 1,
            "selector": {
                "matchLabels": child_selector(job),
                # A spare pod keeps its role when it has become a worker.
                "matchExpressions": [
                    {
                        "key": LABEL_ROLE,
                        "operator": "In",
                        "values": [str(role) for role in roles],
                    }
                ],
            },
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
