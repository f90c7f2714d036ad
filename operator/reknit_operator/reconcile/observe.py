"""From API objects to one frozen `Observed`."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from reknit.protocol.outcome import Conclusion
from reknit.protocol.status import CoordinatorStatus
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import (
    COORDINATOR_CONTAINER,
    LABEL_ATTEMPT,
    LABEL_INCARNATION,
    LABEL_JOB_UID,
    LABEL_REPLACEMENT,
    LABEL_REPLICA,
    LABEL_ROLE,
    TRAINING_CONTAINER,
    Kind,
)
from reknit_operator.reconcile.client import Object
from reknit_operator.reconcile.observed import Observed, Pod, PodPhase, Ref


def observe(
    job: Object,
    children: Iterable[Object],
    *,
    options: BuildOptions,
    new_token: str,
    coordinator: CoordinatorStatus | None = None,
    written: datetime | None = None,
) -> Observed:
    """Everything known of `job`; children of another job's UID are left out.

    Raises:
        pydantic.ValidationError: the job object is not one that this version understands.
    """
    parsed = DistributedTrainingJob.model_validate(job)
    own = [child for child in children if owned_by(child, parsed.metadata.uid)]
    pods = (parse_pod(child) for child in own if child["kind"] == Kind.POD)
    return Observed(
        job=parsed,
        pods=tuple(sorted((pod for pod in pods if pod), key=lambda pod: pod.ref.name)),
        passive=tuple(ref_of(child) for child in own if child["kind"] != Kind.POD),
        coordinator=coordinator,
        written=written,
        new_token=new_token,
        options=options,
    )


def ref_of(item: Object) -> Ref:
    """The reference to `item`."""
    metadata = item["metadata"]
    return Ref(
        Kind(item["kind"]), metadata.get("namespace", ""), metadata["name"], metadata.get("uid", "")
    )


def owned_by(item: Object, uid: str) -> bool:
    """Whether the job with this UID is the controller of `item`."""
    owners = item["metadata"].get("ownerReferences", ())
    return any(owner.get("controller") and owner["uid"] == uid for owner in owners)


def parse_pod(item: Object) -> Pod | None:
    """The pod, or None if it carries no labels of ours."""
    metadata, status = item["metadata"], item.get("status", {})
    labels = metadata.get("labels", {})
    try:
        replica, attempt, replacement = (
            int(labels[label]) for label in (LABEL_REPLICA, LABEL_ATTEMPT, LABEL_REPLACEMENT)
        )
        incarnation = int(labels.get(LABEL_INCARNATION, 0))
        role = labels[LABEL_ROLE]
        labels[LABEL_JOB_UID]
    except (KeyError, ValueError):
        return None
    container = _container(status)
    state = container.get("state", {})
    terminated = state.get("terminated", {})
    finished = terminated.get("finishedAt")
    deleted = metadata.get("deletionTimestamp")
    return Pod(
        ref=ref_of(item),
        role=role,
        replica=replica,
        attempt=attempt,
        replacement=replacement,
        incarnation=incarnation,
        phase=PodPhase(status.get("phase", PodPhase.PENDING)),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        ready=_condition(status, "Ready").get("status") == "True",
        deleted=datetime.fromisoformat(deleted) if deleted else None,
        stopped=_stopped(status),
        finished=datetime.fromisoformat(finished) if finished else None,
        exit_code=terminated.get("exitCode"),
        reason=_reason(status, terminated),
        waiting=_waiting(status, state),
        conclusion=_conclusion(terminated.get("message")),
        node=item.get("spec", {}).get("nodeName", ""),
        address=status.get("podIP", ""),
    )


def _container(status: dict[str, Any]) -> dict[str, Any]:
    for container in status.get("containerStatuses", ()):
        if container["name"] in (TRAINING_CONTAINER, COORDINATOR_CONTAINER):
            return dict(container)
    return {}


def _stopped(status: dict[str, Any]) -> bool:
    """Whether the kubelet has seen the end of every container.

    The phase alone does not say so: it is also set for a pod whose node has not been heard.
    """
    containers = status.get("containerStatuses", ())
    return (
        status.get("phase") in (PodPhase.SUCCEEDED, PodPhase.FAILED)
        and bool(containers)
        and all("terminated" in container.get("state", {}) for container in containers)
    )


def _condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions = status.get("conditions", ())
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _waiting(status: dict[str, Any], state: dict[str, Any]) -> str | None:
    """Why the container has not started: its own reason, or that the pod has no node."""
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason", "Unschedulable"))
    reason = state.get("waiting", {}).get("reason")
    return None if reason is None else str(reason)


def _reason(status: dict[str, Any], terminated: dict[str, Any]) -> str | None:
    disruption = _condition(status, "DisruptionTarget")
    if disruption.get("status") == "True":
        return str(disruption["reason"])
    reason = status.get("reason") or terminated.get("reason")
    return None if reason is None else str(reason)


def _conclusion(message: str | None) -> Conclusion | None:
    """The agent's word; anything else in the termination message is no conclusion."""
    if not message:
        return None
    try:
        return Conclusion.model_validate_json(message)
    except ValidationError:
        return None
