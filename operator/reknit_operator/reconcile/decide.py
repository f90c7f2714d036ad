"""What is to be done about a job: pure, total, and nothing more once it has been done."""

from datetime import datetime

from reknit_operator.api.types import ConditionType, RuleAction
from reknit_operator.api.validation import validate
from reknit_operator.constants import CONDITION_CONCLUDING, Kind, Reason, Role
from reknit_operator.policy.cleanup import stop
from reknit_operator.policy.deadline import deadline, expiry, overdue
from reknit_operator.policy.failure import classify, job_failure, remedy
from reknit_operator.policy.outcome import Outcome
from reknit_operator.policy.success import succeeded
from reknit_operator.policy.suspension import Suspension, suspension
from reknit_operator.reconcile.draft import Draft
from reknit_operator.reconcile.observed import Observed, Pod, Ref
from reknit_operator.reconcile.plan import Plan
from reknit_operator.reconcile.run import run
from reknit_operator.reconcile.status import known_coordinator, report_pods, report_progress


def decide(observed: Observed, now: datetime) -> Plan:
    """The next steps for one job.

    Applied and observed again, the plan is empty until something else happens. A job that is being
    deleted is left to the garbage collector.
    """
    job = observed.job
    if job.metadata.deletion_timestamp is not None:
        return Plan()
    draft = Draft(observed, now)
    if job.status.completion_time is not None:
        _retire(draft)
        return draft.plan()
    draft.update(observed_generation=job.metadata.generation)
    success = succeeded(_trainers(draft), now)
    if outcome := _recorded(draft) or _job_outcome(draft, success):
        _conclude(draft, outcome)
    elif isinstance(success, datetime):
        # The last workers are on their way out; what becomes of them no longer matters.
        draft.wake(success)
        report_pods(draft)
    elif suspension(job) is Suspension.SUSPEND:
        _suspend(draft)
    elif outcome := run(draft):
        _conclude(draft, outcome)
    return draft.plan()


def _trainers(draft: Draft) -> list[Pod]:
    """All workers and spares of the present attempt, replaced ones too."""
    attempt = draft.status.attempts
    pods = draft.observed.pods
    return [pod for pod in pods if pod.role != Role.COORDINATOR and pod.attempt == attempt]


def _recorded(draft: Draft) -> Outcome | None:
    """The outcome that an earlier pass has written down."""
    condition = draft.find_condition(CONDITION_CONCLUDING)
    if condition is None:
        return None
    return Outcome(Reason(condition.reason), condition.message, draft.status.traceback)


def _job_outcome(draft: Draft, success: Outcome | datetime | None) -> Outcome | None:
    """What ends the job as a whole: a wrong manifest, its agents' word, or its deadline."""
    if success is not None:
        return success if isinstance(success, Outcome) else None
    if draft.status.attempts == 0:
        return _invalid(draft)
    for pod in _trainers(draft):
        failure = classify(pod, draft.now)
        if failure is None or not failure.job_wide:
            continue
        chosen = remedy(failure, draft.job.spec.recovery.rules)
        if chosen.action is RuleAction.FAIL_JOB:
            draft.count(failure.exit_class)
            return job_failure(failure, chosen.by_rule)
    if suspension(draft.job) is not Suspension.RUN:
        return None
    draft.wake(deadline(draft.job.spec, draft.status))
    return overdue(draft.job.spec, draft.status, draft.now)


def _invalid(draft: Draft) -> Outcome | None:
    """The outcome of a manifest that got past the schema and still cannot be a job."""
    problems = validate(draft.job)
    if not problems:
        return None
    return Outcome(Reason.CONFIGURATION, "; ".join(str(problem) for problem in problems))


def _conclude(draft: Draft, outcome: Outcome) -> None:
    """Writes the outcome down, cleans up, and only then calls the job finished."""
    first = draft.find_condition(CONDITION_CONCLUDING) is None
    if first:
        _write_down(draft, outcome)
    stopped = draft.remove(stop(draft.observed.pods, draft.now))
    leftovers = draft.observed.passive
    if stopped:
        draft.delete(*leftovers)
    report_pods(draft)
    draft.condition(ConditionType.PODS_READY, False, Reason.ENDED)
    if first:
        report_progress(draft)
        if outcome.step is not None:
            step = {"step": outcome.step}
            draft.update(progress=draft.status.progress.model_copy(update=step))
    if not stopped or leftovers:
        return
    final = ConditionType.SUCCEEDED if outcome.succeeded else ConditionType.FAILED
    other = ConditionType.FAILED if outcome.succeeded else ConditionType.SUCCEEDED
    draft.drop_condition(CONDITION_CONCLUDING)
    draft.condition(final, True, outcome.reason, outcome.message)
    draft.condition(other, False, outcome.reason)
    draft.update(completion_time=draft.stamp)


def _write_down(draft: Draft, outcome: Outcome) -> None:
    """Makes the outcome outlive the pods that it was read from."""
    draft.condition(CONDITION_CONCLUDING, True, outcome.reason, outcome.message)
    draft.condition(ConditionType.RUNNING, False, Reason.ENDED)
    draft.condition(ConditionType.RECOVERING, False, Reason.ENDED)
    if outcome.succeeded:
        draft.event("Normal", outcome.reason, outcome.message)
        return
    draft.update(message=outcome.message, traceback=outcome.traceback)
    tail = f"\n{outcome.traceback}" if outcome.traceback else ""
    draft.event("Warning", outcome.reason, outcome.message + tail)


def _suspend(draft: Draft) -> None:
    """Ends the pods and says so when none runs any more; objects without a process stay."""
    gone = draft.remove(stop(draft.observed.pods, draft.now))
    before = draft.find_condition(ConditionType.SUSPENDED)
    lost = _unsaved(draft)
    if gone:
        # The number of workers may change now, and the budget's number with it.
        passive = draft.observed.passive
        draft.delete(*(ref for ref in passive if ref.kind is Kind.DISRUPTION_BUDGET))
        if before is None or before.status != "True":
            sentence = "no pod of the job runs any more" + (f", but {lost}" if lost else "")
            draft.event("Warning" if lost else "Normal", Reason.SUSPENDED, sentence)
        draft.condition(ConditionType.SUSPENDED, True, Reason.SUSPENDED, lost)
        draft.condition(ConditionType.RUNNING, False, Reason.SUSPENDED)
        draft.condition(ConditionType.RECOVERING, False, Reason.SUSPENDED)
    else:
        draft.condition(ConditionType.SUSPENDED, False, Reason.SUSPENDING, lost)
    report_pods(draft)
    report_progress(draft)


def _unsaved(draft: Draft) -> str:
    """What the suspension costs because the ranks could not write a last checkpoint.

    The pods that say so are about to disappear, so the condition keeps the sentence.
    """
    said = [pod.conclusion.unsaved for pod in _trainers(draft) if pod.conclusion is not None]
    report = known_coordinator(draft)
    said.append(report.checkpoint.unsaved if report is not None else None)
    before = draft.find_condition(ConditionType.SUSPENDED)
    said.append(before.message if before is not None else None)
    return next((sentence for sentence in said if sentence), "")


def _retire(draft: Draft) -> None:
    """A finished job: nothing of it may run, and one day it is deleted."""
    done = draft.remove(stop(draft.observed.pods, draft.now))
    moment = expiry(draft.job.spec, draft.status)
    if not done or moment is None:
        return
    if draft.now >= moment:
        metadata = draft.job.metadata
        draft.delete(Ref(Kind.JOB, metadata.namespace, metadata.name, metadata.uid))
    draft.wake(moment)
