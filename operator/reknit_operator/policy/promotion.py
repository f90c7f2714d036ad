"""Spares that have become workers: the coordinator promotes them, the job's status records it.

A promoted pod keeps its name and its labels. That it is a worker stands in the status alone, from
the same write on that gives its former place to a new spare and takes the worker's from whichever
pod had it.
"""

from collections.abc import Iterable
from dataclasses import replace

from reknit.protocol.status import CoordinatorStatus, Promotion
from reknit_operator.api.types import JobStatus
from reknit_operator.constants import Role, replica_key
from reknit_operator.reconcile.observed import Pod


def as_recorded(pods: Iterable[Pod], status: JobStatus) -> tuple[Pod, ...]:
    """The pods as what they are by the job's status, whatever they were created as."""
    places = {name: key for key, name in status.promotions.items()}
    return tuple(
        _as_worker(pod, places[pod.ref.name], status)
        if pod.ref.name in places and pod.attempt == status.attempts
        else pod
        for pod in pods
    )


def _as_worker(pod: Pod, key: str, status: JobStatus) -> Pod:
    return replace(
        pod,
        role=Role.WORKER,
        replica=int(key.rpartition("-")[2]),
        replacement=status.replacements.get(key, 0),
    )


def unrecorded(
    report: CoordinatorStatus | None, pods: Iterable[Pod], status: JobStatus
) -> list[tuple[Promotion, Pod]]:
    """Promotions that the coordinator tells of and the status does not hold yet, with their pods.

    A report may be older than what has become of the pod: one that has ended is no worker any more.
    """
    if report is None:
        return []
    living = {
        pod.ref.name: pod
        for pod in pods
        if pod.attempt == status.attempts and not pod.ended and pod.deleted is None
    }
    return [
        (promotion, living[promotion.agent])
        for promotion in report.promotions
        if promotion.agent in living
        and status.promotions.get(replica_key(Role.WORKER, promotion.replica)) != promotion.agent
    ]


def recorded(status: JobStatus, pod: Pod, replica: int) -> JobStatus:
    """The status with a pod as the worker of a place, and both places moved on."""
    key = replica_key(Role.WORKER, replica)
    others = {place: name for place, name in status.promotions.items() if name != pod.ref.name}
    replacements = dict(status.replacements)
    for place in (key, *([replica_key(pod.role, pod.replica)] if pod.role == Role.SPARE else [])):
        replacements[place] = replacements.get(place, 0) + 1
    changes = {"promotions": {**others, key: pod.ref.name}, "replacements": replacements}
    return status.model_copy(update=changes)
