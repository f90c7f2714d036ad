"""Why a pod failed and what is to be done about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from reknit.protocol.outcome import ExitClass
from reknit_operator.api.types import CountsTowards, Rule, RuleAction
from reknit_operator.constants import IMAGE_PATIENCE, Reason, Role
from reknit_operator.policy.outcome import Outcome, concluded
from reknit_operator.reconcile.observed import Pod, PodPhase

_CLASS_OF_REASON: Final = {
    "OOMKilled": ExitClass.OUT_OF_MEMORY,
    "PreemptionByScheduler": ExitClass.PREEMPTED,
    "Preempting": ExitClass.PREEMPTED,
    "EvictionByEvictionAPI": ExitClass.PREEMPTED,
    "DeletionByTaintManager": ExitClass.INFRASTRUCTURE,
    "DeletionByPodGC": ExitClass.INFRASTRUCTURE,
    "TerminationByKubelet": ExitClass.INFRASTRUCTURE,
    "NodeShutdown": ExitClass.INFRASTRUCTURE,
    "Evicted": ExitClass.INFRASTRUCTURE,
    "NodeLost": ExitClass.INFRASTRUCTURE,
    "Terminated": ExitClass.INFRASTRUCTURE,
    "StartError": ExitClass.CONFIGURATION,
    "ContainerCannotRun": ExitClass.CONFIGURATION,
}
"""Kubernetes' reasons: of the condition DisruptionTarget, of a pod, of a container."""

_CLASS_OF_EXIT: Final = {
    126: ExitClass.CONFIGURATION,  # the command cannot be run
    127: ExitClass.CONFIGURATION,  # the command does not exist
    137: ExitClass.KILLED,
    143: ExitClass.PREEMPTED,
}
"""What an exit status says when the agent could not leave a message."""

_NO_IMAGE: Final = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "RegistryUnavailable",
        "RunContainerError",
        "SignatureValidationFailed",
    }
)
_BAD_IMAGE: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})

_ENDS_JOB: Final = frozenset({ExitClass.PROGRAM_ERROR, ExitClass.CONFIGURATION})

_JOB_WIDE: Final = _ENDS_JOB | {
    ExitClass.OUT_OF_MEMORY,
    ExitClass.KILLED,
    ExitClass.WRONG_NUMBERS,
}
"""Conclusions of these classes are the coordinator's about the job, not an agent's about itself."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A pod that failed."""

    pod: Pod
    exit_class: ExitClass
    job_wide: bool = False
    """The membership gave the job up; every agent says the same."""

    def __str__(self) -> str:
        pod = self.pod
        if pod.conclusion is not None:
            return pod.conclusion.message
        why = pod.reason or pod.waiting
        if why is None and pod.exit_code is not None:
            why = f"exit status {pod.exit_code}"
        return f"pod {pod.ref.name} failed: {self.exit_class}" + (f" ({why})" if why else "")


def classify(pod: Pod, now: datetime) -> Failure | None:
    """Why `pod` failed; None if it has not, or has ended with the job's success."""
    if pod.conclusion is not None:
        exit_class = pod.conclusion.exit_class
        if exit_class is ExitClass.SUCCEEDED:
            return None
        return Failure(pod, exit_class, job_wide=exit_class in _JOB_WIDE)
    if pod.ended or pod.deleted is not None:
        return Failure(pod, _class_of_end(pod))
    if pod.waiting in _BAD_IMAGE:
        return Failure(pod, ExitClass.CONFIGURATION)
    if pod.waiting in _NO_IMAGE and now >= pod.created + IMAGE_PATIENCE:
        return Failure(pod, ExitClass.CONFIGURATION)
    return None


def patience_ends(pod: Pod) -> datetime | None:
    """When a pod that waits for its image will count as failed."""
    return pod.created + IMAGE_PATIENCE if pod.waiting in _NO_IMAGE and not pod.ended else None


def _class_of_end(pod: Pod) -> ExitClass:
    if pod.reason in _CLASS_OF_REASON:
        return _CLASS_OF_REASON[pod.reason]
    if pod.deleted is not None:
        # Nobody here deletes a pod that is still wanted: someone drains the node.
        return ExitClass.PREEMPTED
    if pod.phase is PodPhase.FAILED and pod.exit_code in _CLASS_OF_EXIT:
        return _CLASS_OF_EXIT[pod.exit_code]
    # Also a coordinator or agent that left with status 0 without a word: that is no success.
    return ExitClass.INFRASTRUCTURE


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is to be done about a failure."""

    action: RuleAction
    counts_towards: CountsTowards
    by_rule: bool = False


def remedy(failure: Failure, rules: Iterable[Rule]) -> Remedy:
    """The first rule that matches decides, else the failure's class."""
    if failure.pod.role in (Role.WORKER, Role.SERVER) or failure.job_wide:
        for rule in rules:
            if rule.on_exit_codes and failure.pod.exit_code not in rule.on_exit_codes:
                continue
            if rule.on_reason is not None and rule.on_reason is not failure.exit_class:
                continue
            return Remedy(rule.action, rule.counts_towards, by_rule=True)
    if failure.pod.role == Role.SPARE and not failure.job_wide:
        # Nothing of the job depends on it.
        return Remedy(RuleAction.REPLACE_POD, CountsTowards.PREEMPTIONS)
    if failure.job_wide or failure.exit_class in _ENDS_JOB:
        return Remedy(RuleAction.FAIL_JOB, CountsTowards.FAILURES)
    if failure.exit_class is ExitClass.PREEMPTED:
        return Remedy(RuleAction.REPLACE_POD, CountsTowards.PREEMPTIONS)
    return Remedy(RuleAction.REPLACE_POD, CountsTowards.FAILURES)


def job_failure(failure: Failure, by_rule: bool) -> Outcome:
    """The outcome of a job that ends because of `failure`."""
    reason = Reason.TOO_MANY_RECOVERIES if failure.job_wide else Reason.CONFIGURATION
    if failure.exit_class in _ENDS_JOB:
        reason = Reason(failure.exit_class.value)
    elif by_rule:
        reason = Reason.RULE_MATCHED
    if failure.pod.conclusion is not None:
        return concluded(reason, failure.pod.conclusion)
    return Outcome(reason, str(failure))
