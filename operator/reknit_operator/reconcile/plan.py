"""What is to be done about one job: the output of `decide`."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from reknit_operator.api.types import JobStatus
from reknit_operator.reconcile.observed import Ref


@dataclass(frozen=True, slots=True)
class Delete:
    """An object to remove."""

    ref: Ref
    force: bool = False
    """Do not wait for the grace period or the node: the pod is lost."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something to tell the user, recorded after the status has been written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they are carried out: status, creates and deletes, events, gone.

    Counters and outcomes stand in the status, so they are safe before a child is touched. When the
    status cannot be written, nothing else happens.
    """

    status: JobStatus | None = None
    """None: the status stays as it is."""
    creates: tuple[dict[str, Any], ...] = ()
    deletes: tuple[Delete, ...] = ()
    events: tuple[JobEvent, ...] = ()
    gone: tuple[Ref, ...] = ()
    """Pods of which the coordinator is to be told that no process of them is left."""
    requeue_after: timedelta | None = None
    """When to look again although nothing may have happened."""

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done now."""
        return not (self.status or self.creates or self.deletes or self.events or self.gone)

    def __str__(self) -> str:
        """Names of the steps; contents stay out, one of them holds the token."""
        steps = ["status"] if self.status else []
        steps += [f"+{new['kind']} {new['metadata']['name']}" for new in self.creates]
        steps += [f"-{gone.ref.kind} {gone.ref.name}" for gone in self.deletes]
        steps += [f"gone {ref.name}" for ref in self.gone]
        return ", ".join(steps) or "nothing"

    __repr__ = __str__
