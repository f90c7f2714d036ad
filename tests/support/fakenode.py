"""A node that runs nothing: it sets the statuses of pods as a scheduler and a kubelet would."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from kubeapi import Api, Object, RefusalError
from reknit.protocol.outcome import AGENT_EXIT_CODES, Conclusion, ExitClass
from reknit_operator.constants import Kind


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container_of(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["name"])


class FakeNode:
    """Every pod of a namespace is bound here and runs at once, unless a test says otherwise.

    Args:
        api: sets statuses.
        namespace: whose pods run here.
        starts: whether a pod may start.
    """

    def __init__(
        self, api: Api, namespace: str, starts: Callable[[Object], bool] = lambda _pod: True
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._starts = starts
        self.is_lost = False
        """A lost node says nothing any more; what is deleted there stays."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeNode"]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _run(self) -> None:
        async for change, pod in self._api.changes(Kind.POD, self._namespace):
            with contextlib.suppress(RefusalError):
                await self._follow(change, pod)

    async def _follow(self, change: str, pod: Object) -> None:
        if self.is_lost or change == "DELETED":
            return
        if "deletionTimestamp" in pod["metadata"]:
            await self._api.delete(Kind.POD, self._namespace, pod["metadata"]["name"], grace=0)
        elif "nodeName" not in pod["spec"] and self._starts(pod):
            await self._api.bind(pod)
            await self.run(pod)

    async def run(self, pod: Object) -> None:
        """The container runs and is ready."""
        state = {"running": {"startedAt": now()}}
        await self._set(pod, "Running", state, ready=True)

    async def wait(self, pod: Object, reason: str) -> None:
        """The container cannot start."""
        await self._set(pod, "Pending", {"waiting": {"reason": reason}}, ready=False)

    async def end(
        self,
        pod: Object,
        code: int,
        *,
        reason: str = "Error",
        message: str = "",
        disruption: str | None = None,
    ) -> None:
        """The container has ended."""
        terminated = {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": now(),
            "finishedAt": now(),
        }
        phase = "Failed" if code else "Succeeded"
        await self._set(pod, phase, {"terminated": terminated}, ready=False, disruption=disruption)

    async def conclude(self, pod: Object, exit_class: ExitClass, message: str = "done") -> None:
        """Its agent has said how the job, or its part of it, ended."""
        word = Conclusion(exit_class=exit_class, message=message, step=7).termination_message()
        await self.end(pod, AGENT_EXIT_CODES[exit_class], message=word)

    async def _set(
        self,
        pod: Object,
        phase: str,
        state: dict[str, Any],
        *,
        ready: bool,
        disruption: str | None = None,
    ) -> None:
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": now()}]
        if disruption is not None:
            conditions.append(
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": disruption,
                    "lastTransitionTime": now(),
                }
            )
        container = {
            "name": container_of(pod),
            "image": "image",
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }
        status = {
            "phase": phase,
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": conditions,
            "containerStatuses": [container],
        }
        await self._api.set_status(pod, status)
