"""Which pods are to go, and in which order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from reknit_operator.constants import STUCK_AFTER, Role
from reknit_operator.reconcile.observed import Pod


@dataclass(frozen=True, slots=True)
class Removal:
    """What to do on the way to having no pods of a set."""

    delete: tuple[Pod, ...] = ()
    force: tuple[Pod, ...] = ()
    """Pods whose node does not answer: their deletion is overdue."""
    look_again: datetime | None = None
    done: bool = True
    """Whether nothing of the set runs any more."""


def stop(pods: Iterable[Pod], now: datetime) -> Removal:
    """Ends every pod that has not ended: workers first, coordinators when no worker is left.

    Workers that get a notice leave at a step boundary, and for that they need their coordinator.
    Pods that have ended stay, with their logs.
    """
    running = [pod for pod in pods if not pod.ended]
    workers = [pod for pod in running if pod.role != Role.COORDINATOR]
    return remove(workers or running, now)


def outdated(pods: Iterable[Pod], attempt: int, current: Sequence[Pod]) -> list[Pod]:
    """Pods of this attempt that no longer fill a place, but for the newest ended one of each.

    That one is kept for its logs.
    """
    names = {pod.ref.name for pod in current}
    old = [pod for pod in pods if pod.attempt == attempt and pod.ref.name not in names]
    newest: dict[tuple[str, int], Pod] = {}
    for pod in sorted(old, key=lambda pod: (pod.replacement, pod.incarnation)):
        if pod.ended:
            newest[pod.role, pod.replica] = pod
    return [pod for pod in old if pod is not newest.get((pod.role, pod.replica))]


def remove(pods: Sequence[Pod], now: datetime) -> Removal:
    """Removes pods, ended ones too, in no particular order."""
    waiting = [pod for pod in pods if pod.deleted is not None]
    overdue = [pod for pod in waiting if pod.deleted and now >= pod.deleted + STUCK_AFTER]
    due = [pod.deleted + STUCK_AFTER for pod in waiting if pod.deleted and pod not in overdue]
    return Removal(
        delete=tuple(pod for pod in pods if pod.deleted is None),
        force=tuple(overdue),
        look_again=min(due, default=None),
        done=not pods,
    )
