"""The objects of a job that run nothing."""

from typing import Any

from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.disruption import build_disruption_budget
from reknit_operator.build.network import build_network_policy
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.secret import build_secret
from reknit_operator.build.service import build_service


def build_passive(
    job: DistributedTrainingJob, options: BuildOptions, token: str
) -> list[dict[str, Any]]:
    """Everything that `job` needs besides pods; `token` goes into its Secret."""
    items = [build_secret(job, token), build_service(job)]
    if options.coordinator_clients:
        items.append(build_network_policy(job, options.coordinator_clients))
    if options.disruption_budgets:
        items.append(build_disruption_budget(job))
    return items
