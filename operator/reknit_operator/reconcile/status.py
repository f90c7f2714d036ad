"""What the status shows of pods and of training."""

from datetime import timedelta

from reknit.protocol.status import CoordinatorStatus, MembershipPhase
from reknit_operator.api.types import (
    CheckpointStatus,
    ConditionType,
    Membership,
    ProgressStatus,
    RecoveryStatus,
    ReplicaStatus,
)
from reknit_operator.constants import STATUS_PERIOD, Reason, Role
from reknit_operator.policy.elasticity import (
    current,
    num_required,
    wanted_replicas,
    wanted_servers,
    wanted_spares,
)
from reknit_operator.reconcile.draft import Draft
from reknit_operator.reconcile.observed import PodPhase


def report_pods(draft: Draft) -> None:
    """Counts pods by role into the status, and says whether all are ready."""
    pods = [pod for pod in draft.observed.pods if pod.attempt == draft.status.attempts]
    filling = current(pods, draft.job, draft.status)
    wanted = {Role.COORDINATOR: 1, Role.WORKER: len(wanted_replicas(draft.job))}
    if wanted_spares(draft.job):
        wanted[Role.SPARE] = len(wanted_spares(draft.job))
    if wanted_servers(draft.job):
        wanted[Role.SERVER] = len(wanted_servers(draft.job))
    roles = []
    for role, desired in wanted.items():
        active = [pod for pod in filling if pod.role == role and not pod.ended]
        ended = [pod for pod in pods if pod.role == role and pod.ended]
        roles.append(
            ReplicaStatus(
                role=role.value,
                desired=desired,
                active=len(active),
                ready=sum(pod.ready for pod in active),
                succeeded=sum(pod.phase is PodPhase.SUCCEEDED for pod in ended),
                failed=sum(pod.phase is PodPhase.FAILED for pod in ended),
            )
        )
    draft.update(replica_statuses=tuple(roles))
    worker = roles[1]
    waiting = sorted({pod.waiting for pod in filling if pod.waiting and not pod.ended})
    if worker.ready >= worker.desired:
        draft.condition(ConditionType.PODS_READY, True, Reason.ALL_PODS_READY)
    elif worker.active < worker.desired:
        missing = f"{worker.desired - worker.active} of {worker.desired} worker pods are missing"
        draft.condition(ConditionType.PODS_READY, False, Reason.PODS_MISSING, missing)
    else:
        why = ": " + ", ".join(waiting) if waiting else ""
        sentence = f"{worker.desired - worker.ready} of {worker.desired} worker pods are not ready"
        draft.condition(ConditionType.PODS_READY, False, Reason.PODS_WAITING, sentence + why)


def report_training(draft: Draft) -> None:
    """Says whether training runs.

    Without word from the coordinator the conditions stay: training goes on without it.
    """
    report = known_coordinator(draft)
    if report is None:
        if draft.find_condition(ConditionType.RUNNING) is None:
            sentence = f"waiting for {num_required(draft.job)} worker pods"
            draft.condition(ConditionType.RUNNING, False, Reason.WAITING, sentence)
        return
    if report.phase in (MembershipPhase.RUNNING, MembershipPhase.CLOSING):
        draft.condition(ConditionType.RUNNING, True, Reason.TRAINING)
        draft.condition(ConditionType.RECOVERING, False, Reason.RECOVERED)
    elif report.phase is MembershipPhase.CONCLUDED:
        draft.condition(ConditionType.RUNNING, False, Reason.ENDED)
        draft.condition(ConditionType.RECOVERING, False, Reason.ENDED)
    else:
        begun = report.phase is MembershipPhase.RECOVERING or report.generation is not None
        reason = Reason.RECOVERING if begun else Reason.WAITING
        sentence = f"{report.num_agents} of {report.num_expected_agents} agents are connected"
        draft.condition(ConditionType.RUNNING, False, reason)
        draft.condition(ConditionType.RECOVERING, begun, reason, sentence if begun else "")


def report_progress(draft: Draft) -> None:
    """Copies the figures that always move, at most once per `STATUS_PERIOD`.

    They ride along when the status is written anyway.
    """
    report = known_coordinator(draft)
    if report is None:
        return
    before, written = draft.status, draft.observed.written
    due = (
        before != draft.job.status
        or written is None
        or draft.now >= written + STATUS_PERIOD
        or report.phase is MembershipPhase.CONCLUDED
    )
    _copy(draft, report)
    if not due and draft.status != before:
        draft.status = before
        assert written is not None
        draft.wake(written + STATUS_PERIOD)


def known_coordinator(draft: Draft) -> CoordinatorStatus | None:
    """The coordinator's report, unless an earlier incarnation made it."""
    report = draft.observed.coordinator
    if report is None or report.incarnation != draft.status.membership.incarnation:
        return None
    return report


def _copy(draft: Draft, report: CoordinatorStatus) -> None:
    """Puts a coordinator's figures into the status; recoveries never count down.

    A new coordinator starts its own count at what the agents tell it, which may be less.
    """
    status, progress = draft.status, report.progress
    counter = report.generation.counter if report.generation else status.membership.generation
    remaining = progress.remaining_seconds
    draft.update(
        membership=Membership(
            incarnation=status.membership.incarnation,
            generation=counter,
            ranks=len(report.ranks),
            spares=report.num_spares,
        ),
        progress=ProgressStatus(
            step=max(progress.step, 0),
            total_steps=progress.total_steps,
            loss=progress.loss,
            samples_per_second=progress.samples_per_second,
            estimated_completion_time=(
                None if remaining is None else draft.stamp + timedelta(seconds=remaining)
            ),
        ),
        recovery=RecoveryStatus(
            count=max(report.recovery.count, status.recovery.count),
            last_seconds=report.recovery.last_seconds or status.recovery.last_seconds,
            lost_steps=max(report.recovery.lost_steps, status.recovery.lost_steps),
        ),
        checkpoint=CheckpointStatus(
            step=report.checkpoint.step or status.checkpoint.step,
            location=_short(report.checkpoint.location) or status.checkpoint.location,
            error=_short(report.checkpoint.error),
        ),
    )


def _short(text: str | None) -> str | None:
    return None if text is None else text[:1024]
