"""Collects what one pass over a job decides."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from reknit.protocol.outcome import ExitClass
from reknit_operator.api.types import Condition, ConditionType, JobStatus
from reknit_operator.constants import Kind, Reason
from reknit_operator.policy.cleanup import Removal
from reknit_operator.policy.promotion import as_recorded, recorded
from reknit_operator.reconcile.observed import Observed, Pod, Ref
from reknit_operator.reconcile.plan import Delete, JobEvent, Plan


class Draft:
    """The plan in the making; lives for one call of `decide`."""

    def __init__(self, observed: Observed, now: datetime) -> None:
        self.job = observed.job
        self.now = now
        self.stamp = now.replace(microsecond=0)
        """`now` at the resolution of the API."""
        self.status: JobStatus = observed.job.status
        self._created_as = observed.pods
        self.observed = replace(observed, pods=as_recorded(observed.pods, self.status))
        self._creates: list[dict[str, Any]] = []
        self._deletes: list[Delete] = []
        self._events: list[JobEvent] = []
        self._gone: list[Ref] = []
        self._wake: datetime | None = None

    def update(self, **changes: Any) -> None:
        """Sets fields of the status."""
        self.status = self.status.model_copy(update=changes)

    def promote(self, pod: Pod, replica: int) -> None:
        """Makes a spare the worker of a place."""
        self.status = recorded(self.status, pod, replica)
        self.observed = replace(self.observed, pods=as_recorded(self._created_as, self.status))

    def count(self, exit_class: ExitClass) -> None:
        """Adds one to the failures of a class."""
        failures = self.status.failures
        self.update(failures={**failures, exit_class: failures.get(exit_class, 0) + 1})

    def condition(
        self,
        kind: ConditionType | str,
        holds: bool | None,
        reason: Reason,
        message: str = "",
    ) -> None:
        """Sets a condition; its transition time moves only when its status changes."""
        status = {True: "True", False: "False", None: "Unknown"}[holds]
        before = self.find_condition(kind)
        same = before is not None and before.status == status
        after = Condition(
            type=str(kind),
            status=status,
            reason=reason.value,
            message=message,
            last_transition_time=before.last_transition_time if before and same else self.stamp,
            observed_generation=self.job.metadata.generation,
        )
        others = self.status.conditions
        if before is None:
            self.update(conditions=(*others, after))
        else:
            self.update(conditions=tuple(after if old is before else old for old in others))

    def drop_condition(self, kind: str) -> None:
        """Removes a condition."""
        kept = tuple(old for old in self.status.conditions if old.type != kind)
        self.update(conditions=kept)

    def find_condition(self, kind: ConditionType | str) -> Condition | None:
        """The condition as it stands in the draft."""
        return next((old for old in self.status.conditions if old.type == str(kind)), None)

    def event(self, kind: Literal["Normal", "Warning"], reason: Reason, message: str) -> None:
        """Tells the user something once the status is written."""
        self._events.append(JobEvent(kind, reason.value, message))

    def create(self, item: dict[str, Any]) -> None:
        """Creates an object."""
        self._creates.append(item)

    def delete(self, *refs: Ref) -> None:
        """Deletes objects that do not run anything."""
        self._deletes += [Delete(ref) for ref in refs]

    def remove(self, removal: Removal) -> bool:
        """Carries out a removal of pods; returns whether it is done."""
        self._deletes += [Delete(pod.ref) for pod in removal.delete]
        self._deletes += [Delete(pod.ref, force=True) for pod in removal.force]
        self.wake(removal.look_again)
        return removal.done

    def confirm_gone(self, name: str) -> None:
        """Tells the coordinator that no process of the pod of this name is left."""
        self._gone.append(Ref(Kind.POD, self.job.metadata.namespace, name))

    def wake(self, *moments: datetime | None) -> None:
        """Looks at the job again at these moments; those in the past are left out."""
        times: Iterable[datetime] = (time for time in moments if time and time > self.now)
        self._wake = min((*times, *([self._wake] if self._wake else [])), default=None)

    def plan(self) -> Plan:
        """What has been decided."""
        return Plan(
            status=self.status if self.status != self.job.status else None,
            creates=tuple(self._creates),
            deletes=tuple(self._deletes),
            events=tuple(self._events),
            gone=tuple(self._gone),
            requeue_after=self._wake - self.now if self._wake else None,
        )
