"""The NetworkPolicy of a job: who may connect to its pods."""

from typing import Any

from reknit.protocol.settings import COORDINATOR_PORT
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.metadata import child_metadata, child_selector
from reknit_operator.constants import policy_name

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that the API server puts on every namespace."""


def build_network_policy(job: DistributedTrainingJob, clients: tuple[str, ...]) -> dict[str, Any]:
    """Lets the pods of `job` talk to each other, and `clients` to its coordinator.

    Ranks choose their ports as they go, so inside of the job all are open. Outgoing connections are
    left alone: where data comes from is not known here.

    Args:
        job: the job.
        clients: namespaces of the operator and of whoever collects metrics.
    """
    inside = {"from": [{"podSelector": {"matchLabels": child_selector(job)}}]}
    outside = {
        "from": [
            {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: name}}} for name in clients
        ],
        "ports": [{"protocol": "TCP", "port": COORDINATOR_PORT}],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(job, policy_name(job.metadata.name), "network-policy"),
        "spec": {
            "podSelector": {"matchLabels": child_selector(job)},
            "policyTypes": ["Ingress"],
            "ingress": [inside, outside],
        },
    }
