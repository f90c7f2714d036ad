"""The statuses that a kubelet gives to a pod with one container."""

from datetime import datetime
from typing import Any, Final

from reknit_operator.reconcile.client import Object

NODE: Final = "local"


def waiting(pod: Object, reason: str) -> dict[str, Any]:
    """The container cannot start yet."""
    return {
        "phase": "Pending",
        "containerStatuses": [_container(pod, {"waiting": {"reason": reason}})],
    }


def running(pod: Object, address: str, now: datetime) -> dict[str, Any]:
    """The container runs."""
    return {
        "phase": "Running",
        "podIP": address,
        "hostIP": address,
        "startTime": now.isoformat(),
        "conditions": [_ready(True, now)],
        "containerStatuses": [_container(pod, {"running": {"startedAt": now.isoformat()}})],
    }


def ended(
    pod: Object, returncode: int, message: str, *, started: datetime, now: datetime
) -> dict[str, Any]:
    """The container has ended; `returncode` is an exit status, or a signal's number negated."""
    terminated: dict[str, Any] = {
        "exitCode": returncode if returncode >= 0 else 128 - returncode,
        "reason": "Error" if returncode else "Completed",
        "message": message,
        "startedAt": started.isoformat(),
        "finishedAt": now.isoformat(),
    }
    if returncode < 0:
        terminated["signal"] = -returncode
    return {
        "phase": "Failed" if returncode else "Succeeded",
        "podIP": pod.get("status", {}).get("podIP", ""),
        "startTime": started.isoformat(),
        "conditions": [_ready(False, now)],
        "containerStatuses": [_container(pod, {"terminated": terminated})],
    }


def _ready(ready: bool, now: datetime) -> dict[str, str]:
    return {"type": "Ready", "status": str(ready), "lastTransitionTime": now.isoformat()}


def _container(pod: Object, state: dict[str, Any]) -> dict[str, Any]:
    name = pod["spec"]["containers"][0]["name"]
    return {"name": name, "ready": "running" in state, "restartCount": 0, "state": state}
