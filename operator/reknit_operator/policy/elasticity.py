"""Which worker pods a job wants, and which of those that exist fill a place."""

from collections.abc import Iterable

from reknit_operator.api.types import DistributedTrainingJob, JobStatus, OnLoss
from reknit_operator.constants import Role, replica_key
from reknit_operator.reconcile.observed import Pod


def wanted_replicas(job: DistributedTrainingJob) -> range:
    """Indices of the workers; lost ones are always asked for anew, also while going on smaller."""
    return range(job.spec.workers.replicas)


def wanted_spares(job: DistributedTrainingJob) -> range:
    """Indices of the spares; those that have become workers are replaced."""
    return range(job.spec.spares.replicas)


def wanted_servers(job: DistributedTrainingJob) -> range:
    """Indices of the parameter servers."""
    servers = job.spec.parameter_servers
    return range(0 if servers is None else servers.replicas)


def num_required(job: DistributedTrainingJob) -> int:
    """Workers without which training cannot go on."""
    if job.spec.recovery.on_loss is OnLoss.SHRINK:
        return job.spec.workers.fewest_replicas
    return job.spec.workers.replicas


def fills_place(pod: Pod, job: DistributedTrainingJob, status: JobStatus) -> bool:
    """Whether `pod` is the one that its place is meant to have now, in whatever condition.

    Spares that have become workers must be seen as such, see `promotion.as_recorded`.
    """
    key = replica_key(pod.role, pod.replica)
    if (pod.attempt, pod.replacement) != (status.attempts, status.replacements.get(key, 0)):
        return False
    if pod.role == Role.COORDINATOR:
        return pod.incarnation == status.membership.incarnation
    wanted = {
        str(Role.WORKER): wanted_replicas(job),
        str(Role.SPARE): wanted_spares(job),
        str(Role.SERVER): wanted_servers(job),
    }
    return pod.replica in wanted.get(pod.role, ())


def current(pods: Iterable[Pod], job: DistributedTrainingJob, status: JobStatus) -> list[Pod]:
    """The pods that fill a place, in the order of their names."""
    return [pod for pod in pods if fills_place(pod, job, status)]
