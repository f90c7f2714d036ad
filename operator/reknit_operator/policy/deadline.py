"""Limits in time: of a running job, and of a finished one."""

from datetime import datetime, timedelta

from reknit_operator.api.types import JobSpec, JobStatus
from reknit_operator.constants import Reason
from reknit_operator.policy.outcome import Outcome


def deadline(spec: JobSpec, status: JobStatus) -> datetime | None:
    """When the job will have run too long; time in suspension does not count."""
    if spec.active_deadline_seconds is None or status.start_time is None:
        return None
    return status.start_time + timedelta(seconds=spec.active_deadline_seconds)


def overdue(spec: JobSpec, status: JobStatus, now: datetime) -> Outcome | None:
    """The outcome of a job that has run too long."""
    moment = deadline(spec, status)
    if moment is None or now < moment:
        return None
    return Outcome(
        Reason.DEADLINE_EXCEEDED,
        f"the job was active for longer than {spec.active_deadline_seconds} seconds",
    )


def expiry(spec: JobSpec, status: JobStatus) -> datetime | None:
    """When a finished job is to be deleted."""
    if spec.ttl_seconds_after_finished is None or status.completion_time is None:
        return None
    return status.completion_time + timedelta(seconds=spec.ttl_seconds_after_finished)
