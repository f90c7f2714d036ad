"""When a job has succeeded: the word of the agents' termination messages."""

from collections.abc import Sequence
from datetime import datetime

from reknit.protocol.outcome import ExitClass
from reknit_operator.constants import CONCLUDING_PATIENCE, Reason
from reknit_operator.policy.outcome import Outcome, concluded
from reknit_operator.reconcile.observed import Pod, PodPhase


def succeeded(workers: Sequence[Pod], now: datetime) -> Outcome | datetime | None:
    """The success that the workers of one attempt report.

    Agents report success after the last version is committed and the final checkpoint durable on
    every rank, so one message speaks for all. The others get time to leave by themselves; what
    becomes of their pods no longer matters.

    Returns:
        The outcome, the time until which to wait for the other workers, or None.
    """
    reports = [
        pod
        for pod in workers
        if pod.conclusion is not None and pod.conclusion.exit_class is ExitClass.SUCCEEDED
    ]
    if not reports:
        return None
    first = min(reports, key=lambda pod: (pod.finished or pod.created, pod.replica))
    patience_ends = (first.finished or first.created) + CONCLUDING_PATIENCE
    if any(_takes_part(pod) for pod in workers) and now < patience_ends:
        return patience_ends
    assert first.conclusion is not None
    return concluded(Reason.COMPLETED, first.conclusion)


def _takes_part(pod: Pod) -> bool:
    """Whether it has something to hear of; a pod that has not started never has."""
    return not pod.ended and pod.phase is not PodPhase.PENDING
