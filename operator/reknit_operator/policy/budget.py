"""How many failures a job survives, and how fast its pods are replaced."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from reknit_operator.api.types import Budget
from reknit_operator.constants import (
    BACK_OFF_MAX,
    BACK_OFF_WINDOW,
    INCIDENT,
    REPLACE_PERIOD,
    SPARE_PATIENCE,
    SPARE_PERIOD,
)
from reknit_operator.reconcile.observed import Pod


def charge(times: Sequence[datetime], budget: Budget, now: datetime) -> tuple[datetime, ...]:
    """The failures on record after one more at `now`.

    A failure within `INCIDENT` of the one recorded last belongs to it: ten pods lost with one rack
    are one failure. Entries that neither budget nor back-off looks at any more are dropped.
    """
    horizon = now - max(budget.per, BACK_OFF_WINDOW)
    kept = [time for time in times if time > horizon]
    if not kept or now - kept[-1] >= INCIDENT:
        kept.append(now)
    return tuple(kept[-(budget.failures + 1) :])


def exhausted(times: Sequence[datetime], budget: Budget, now: datetime) -> bool:
    """Whether more failures than the budget allows lie within its window."""
    return sum(time > now - budget.per for time in times) > budget.failures


def back_off(num_recent: int) -> timedelta:
    """Wait before a replacement: none after the first failure, then 1 s, 2 s, 4 s, ... 60 s."""
    if num_recent < 2:
        return timedelta(0)
    return min(timedelta(seconds=2 ** min(num_recent - 2, 16)), BACK_OFF_MAX)


def replace_at(
    times: Sequence[datetime], predecessors: Sequence[Pod], now: datetime
) -> datetime | None:
    """When the next pod of a place may be created; None stands for at once.

    Failures wait by `back_off`; whatever happened, a place is refilled once per `REPLACE_PERIOD`.
    """
    recent = [time for time in times if time > now - BACK_OFF_WINDOW]
    moments = [pod.created + REPLACE_PERIOD for pod in predecessors]
    if recent:
        moments.append(recent[-1] + back_off(len(recent)))
    latest = max(moments, default=now)
    return latest if latest > now else None


def respare_at(predecessors: Sequence[Pod], now: datetime) -> datetime | None:
    """When the next pod of a spare's place may be created; None stands for at once."""
    latest = max((pod.created + SPARE_PERIOD for pod in predecessors), default=now)
    return latest if latest > now else None


def left_to_spare(predecessors: Sequence[Pod], now: datetime) -> datetime | None:
    """Until when a spare that stands by may take a place before a pod is created for it.

    The coordinator knows of the loss as soon as the operator does, and says whom it has promoted.
    """
    ends = [pod.finished or pod.deleted for pod in predecessors]
    latest = max((end + SPARE_PATIENCE for end in ends if end is not None), default=now)
    return latest if latest > now else None
