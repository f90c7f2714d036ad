"""What a plan of the operator does, in words that tests compare."""

from typing import Any

from reknit_operator.reconcile.plan import Plan


def condition(status: Any, kind: str) -> Any:
    """The condition of one type; None if the job does not have it."""
    return next((item for item in status.conditions if item.type == kind), None)


def created(plan: Plan) -> list[str]:
    """Names of the objects that a plan creates."""
    return [item["metadata"]["name"] for item in plan.creates]


def deleted(plan: Plan) -> list[str]:
    """Names of the objects that a plan deletes."""
    return [gone.ref.name for gone in plan.deletes]


def reasons(plan: Plan) -> list[str]:
    """Reasons of the events of a plan."""
    return [event.reason for event in plan.events]
