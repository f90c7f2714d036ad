"""A job that is meant to run: failures settled, missing pods created."""

from datetime import datetime

from reknit.protocol.outcome import ExitClass
from reknit.protocol.status import MembershipPhase
from reknit_operator.api.types import (
    ConditionType,
    CountsTowards,
    RuleAction,
)
from reknit_operator.build.coordinator import build_coordinator
from reknit_operator.build.passive import build_passive
from reknit_operator.build.settings import checkpoint_settings
from reknit_operator.build.worker import build_worker
from reknit_operator.constants import Reason, Role, replica_key
from reknit_operator.policy.budget import (
    charge,
    exhausted,
    left_to_spare,
    replace_at,
    respare_at,
)
from reknit_operator.policy.cleanup import outdated, remove, stop
from reknit_operator.policy.elasticity import (
    current,
    wanted_replicas,
    wanted_servers,
    wanted_spares,
)
from reknit_operator.policy.failure import Failure, classify, job_failure, patience_ends, remedy
from reknit_operator.policy.outcome import Outcome
from reknit_operator.policy.promotion import unrecorded
from reknit_operator.policy.suspension import Suspension, suspension
from reknit_operator.reconcile.draft import Draft
from reknit_operator.reconcile.observed import Pod
from reknit_operator.reconcile.status import (
    known_coordinator,
    report_pods,
    report_progress,
    report_training,
)


def run(draft: Draft) -> Outcome | None:
    """Brings the job's objects to what they should be; returns an outcome if it must end."""
    _begin(draft)
    outcome = _settle(draft) or _promote(draft)
    if outcome is not None:
        return outcome
    if _make_room(draft):
        _fill(draft)
    _confirm_gone(draft)
    report_pods(draft)
    report_training(draft)
    report_progress(draft)
    return None


def _begin(draft: Draft) -> None:
    """Counts an attempt when the job starts, or starts again after a suspension."""
    resumed = suspension(draft.job) is Suspension.RESUME
    if draft.status.attempts and not resumed:
        return
    draft.update(attempts=draft.status.attempts + 1, promotions={}, start_time=draft.stamp)
    reason = Reason.RESUMED if resumed else Reason.NOT_SUSPENDED
    draft.condition(ConditionType.SUSPENDED, False, reason)
    draft.condition(ConditionType.SUCCEEDED, None, Reason.STARTED)
    sentence = f"attempt {draft.status.attempts} began"
    is_function = draft.job.spec.entrypoint.function is not None
    if is_function and checkpoint_settings(draft.job.spec, draft.observed.options) is None:
        sentence += ", and writes no checkpoints as there is no checkpoint.volume"
    draft.event("Normal", Reason.RESUMED if resumed else Reason.STARTED, sentence)


def _settle(draft: Draft) -> Outcome | None:
    """Writes every new failure to the status, exactly once, and says what follows from it.

    A failure is new while its pod fills its place; what is written moves the place on to the next
    pod, so that the same failure is never seen again, whoever deletes the old pod.
    """
    for pod in current(draft.observed.pods, draft.job, draft.status):
        draft.wake(patience_ends(pod))
        failure = classify(pod, draft.now)
        if failure is None:
            continue
        outcome = _charge(draft, failure)
        if outcome is not None:
            return outcome
        if failure.job_wide:
            _restart(draft, failure)
            return None
        _move_on(draft, failure)
    return None


def _charge(draft: Draft, failure: Failure) -> Outcome | None:
    """Counts a failure; returns an outcome if the job must end because of it."""
    chosen = remedy(failure, draft.job.spec.recovery.rules)
    draft.count(failure.exit_class)
    if chosen.action is RuleAction.FAIL_JOB:
        return job_failure(failure, chosen.by_rule)
    budget = draft.job.spec.recovery.budget
    if chosen.counts_towards is CountsTowards.FAILURES:
        times = charge(draft.status.failure_times, budget, draft.stamp)
        draft.update(failure_times=times)
        if exhausted(times, budget, draft.stamp):
            sentence = f"more than {budget.failures} failures within {budget.per}, the last: "
            return Outcome(Reason.BUDGET_EXHAUSTED, sentence + str(failure))
    return None


def _promote(draft: Draft) -> Outcome | None:
    """Writes down which spares the coordinator has made workers; returns what follows from it.

    The pod that had the place goes. If it is the one that the coordinator has lost, and nobody saw
    it fail, that is its failure; else it was created in vain.
    """
    report = known_coordinator(draft)
    for promotion, pod in unrecorded(report, draft.observed.pods, draft.status):
        for lost in current(draft.observed.pods, draft.job, draft.status):
            if (lost.role, lost.ref.name) == (Role.WORKER, promotion.instead_of):
                outcome = _charge(draft, Failure(lost, ExitClass.INFRASTRUCTURE))
                if outcome is not None:
                    return outcome
        draft.promote(pod, promotion.replica)
        sentence = f"the spare {promotion.agent} takes the place of worker {promotion.replica}"
        draft.event("Normal", Reason.SPARE_PROMOTED, sentence)
    return None


def _restart(draft: Draft, failure: Failure) -> None:
    """Starts all pods anew: the membership has given up, and a rule says to go on."""
    draft.update(attempts=draft.status.attempts + 1, promotions={})
    sentence = f"attempt {draft.status.attempts} began after: {failure}"
    draft.event("Warning", Reason.RESTARTED, sentence)


def _move_on(draft: Draft, failure: Failure) -> None:
    """Gives the place of a failed pod to a new one."""
    pod = failure.pod
    key = replica_key(pod.role, pod.replica)
    replacements = dict(draft.status.replacements)
    replacements[key] = replacements.get(key, 0) + 1
    promotions = {place: name for place, name in draft.status.promotions.items() if place != key}
    draft.update(replacements=replacements, promotions=promotions)
    if pod.role == Role.COORDINATOR:
        draft.event("Warning", Reason.COORDINATOR_REPLACED, str(failure))
    elif pod.deleted is not None:
        draft.event("Normal", Reason.POD_PREEMPTED, str(failure))
    else:
        draft.event("Warning", Reason.POD_REPLACED, str(failure))


def _make_room(draft: Draft) -> bool:
    """Removes pods that no longer fill a place; returns whether new ones may be created.

    Pods of an earlier attempt must have stopped before the next attempt begins, for both would
    write checkpoints. A replaced pod need not: its agent and its coordinator know it is leaving.
    """
    pods, attempt = draft.observed.pods, draft.status.attempts
    earlier = [pod for pod in pods if pod.attempt != attempt]
    stopped = draft.remove(stop(earlier, draft.now))
    draft.remove(remove([pod for pod in earlier if pod.ended], draft.now))
    filling = current(pods, draft.job, draft.status)
    draft.remove(remove(outdated(pods, attempt, filling), draft.now))
    return stopped


def _fill(draft: Draft) -> None:
    """Creates what is missing."""
    observed, job = draft.observed, draft.job
    existing = {(ref.kind, ref.name) for ref in observed.passive}
    for item in build_passive(job, observed.options, observed.new_token):
        if (item["kind"], item["metadata"]["name"]) not in existing:
            draft.create(item)
    present = current(observed.pods, job, draft.status)
    if not any(pod.role == Role.COORDINATOR for pod in present):
        coordinators = [pod for pod in observed.pods if pod.role == Role.COORDINATOR]
        if _may_create(draft, coordinators):
            _create_coordinator(draft)
    filled = {(pod.role, pod.replica) for pod in present}
    num_ready = sum(pod.role == Role.SPARE and pod.ready and not pod.leaving for pod in present)
    for replica in wanted_replicas(job):
        if (Role.WORKER, replica) not in filled:
            _fill_place(draft, Role.WORKER, replica, left=num_ready > 0)
            num_ready -= 1
    for replica in wanted_servers(job):
        if (Role.SERVER, replica) not in filled:
            _fill_place(draft, Role.SERVER, replica, left=False)
    for index in wanted_spares(job):
        if (Role.SPARE, index) not in filled:
            moment = respare_at(_in_place(draft, Role.SPARE, index), draft.now)
            draft.wake(moment)
            if moment is None:
                _create(draft, Role.SPARE, index)


def _fill_place(draft: Draft, role: Role, replica: int, *, left: bool) -> None:
    """Creates a worker or server unless the place is `left` to a spare for the moment."""
    before = _in_place(draft, role, replica)
    moment = left_to_spare(before, draft.now) if left else None
    draft.wake(moment)
    if moment is None and _may_create(draft, before):
        _create(draft, role, replica)


def _in_place(draft: Draft, role: Role, replica: int) -> list[Pod]:
    """All pods of a place that still exist."""
    return [pod for pod in draft.observed.pods if (pod.role, pod.replica) == (role, replica)]


def _create(draft: Draft, role: Role, replica: int) -> None:
    draft.create(
        build_worker(
            draft.job,
            draft.observed.options,
            replica,
            attempt=draft.status.attempts,
            replacements=draft.status.replacements.get(replica_key(role, replica), 0),
            role=role,
        )
    )


def _confirm_gone(draft: Draft) -> None:
    """Tells the coordinator of pods that are no more, and that it misses or still counts on.

    So it need not wait for their silence, and knows that nothing of them goes on. It does not name
    them again once it knows.
    """
    report = known_coordinator(draft)
    if report is None or report.phase is MembershipPhase.CONCLUDED:
        return
    existing = {pod.ref.name for pod in draft.observed.pods if not pod.stopped}
    counted = {*report.missing, *report.servers, *(rank.agent for rank in report.ranks)}
    for name in sorted(counted - existing):
        draft.confirm_gone(name)


def _create_coordinator(draft: Draft) -> None:
    """Takes an incarnation and creates its pod.

    The number is taken in the same write that precedes the creation, and never used for a second
    pod, not even when nobody can tell any more whether the first one ever existed.
    """
    membership = draft.status.membership
    incarnation = membership.incarnation + 1
    draft.update(membership=membership.model_copy(update={"incarnation": incarnation}))
    draft.create(
        build_coordinator(
            draft.job,
            draft.observed.options,
            incarnation=incarnation,
            attempt=draft.status.attempts,
            replacements=draft.status.replacements.get(replica_key(Role.COORDINATOR, 0), 0),
        )
    )


def _may_create(draft: Draft, predecessors: list[Pod]) -> bool:
    """Whether a place may be filled now; if not, the draft wakes up when it may."""
    moment: datetime | None = replace_at(draft.status.failure_times, predecessors, draft.now)
    draft.wake(moment)
    return moment is None
