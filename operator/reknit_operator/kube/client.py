"""The object API of a real cluster."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import aiohttp

from reknit_operator.constants import Kind
from reknit_operator.kube.access import Access
from reknit_operator.kube.answers import error_for, wait_before_retry
from reknit_operator.kube.recorder import EventBook
from reknit_operator.kube.resources import (
    EVENTS,
    RESOURCES,
    collection_path,
    object_path,
    slim,
)
from reknit_operator.reconcile.client import ApiError, ConflictError, NotFoundError, Object
from reknit_operator.reconcile.client import ObjectList as Listed
from reknit_operator.reconcile.observed import Ref

TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
MAX_IN_FLIGHT: Final = 32
"""Requests at a time, all jobs together; the server's own fairness does the rest."""
CHUNK: Final = 500
"""Objects per page of a list."""

Counted = Callable[[str, str, int, float], None]
"""Takes verb, kind, status (0: no answer) and seconds of a request."""


def _uncounted(_verb: str, _kind: str, _status: int, _seconds: float) -> None:
    return


class KubeClient:
    """Implements `ObjectClient` with plain objects; an async context manager.

    Requests are repeated while the server is busy, and every one of them may be: a creation that
    was carried out is then answered with AlreadyExistsError, a written status with ConflictError.

    Args:
        access: the way to the server.
        namespaces: the namespaces to list, one by one; None: all.
        counted: told of every request.
    """

    def __init__(
        self, access: Access, namespaces: Sequence[str] | None, *, counted: Counted = _uncounted
    ) -> None:
        self._access = access
        self._namespaces: Sequence[str | None] = (None,) if namespaces is None else namespaces
        self._counted = counted
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._book = EventBook()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "KubeClient":
        self._session = self._access.session()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def create(self, item: Object) -> Object:
        """Creates `item`; raises AlreadyExistsError."""
        kind = Kind(item["kind"])
        path = collection_path(RESOURCES[kind], item["metadata"]["namespace"])
        return slim(await self.call("POST", str(kind), path, body=item), kind)

    async def get(self, ref: Ref) -> Object:
        """The object; raises NotFoundError."""
        found = await self.call("GET", str(ref.kind), object_path(ref))
        if ref.uid and found["metadata"]["uid"] != ref.uid:
            raise NotFoundError(f"{ref} has been replaced by another one of its name")
        return slim(found, ref.kind)

    async def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None) -> Listed:
        """All objects of `kind` that carry `labels`, in the namespaces of this operator."""
        selector = ",".join(f"{name}={value}" for name, value in (labels or {}).items())
        items: list[Object] = []
        versions = []
        for namespace in self._namespaces:
            query = {"limit": str(CHUNK)} | ({"labelSelector": selector} if selector else {})
            while True:
                path = collection_path(RESOURCES[kind], namespace)
                page = await self.call("GET", str(kind), path, query=query)
                items += [slim(item, kind) for item in page["items"]]
                if not (token := page["metadata"].get("continue")):
                    break
                query["continue"] = token
            versions.append(int(page["metadata"]["resourceVersion"]))
        # Of several lists the oldest says up to where nothing is missing.
        return Listed(tuple(items), str(min(versions)))

    async def patch_status(self, ref: Ref, status: Object, *, resource_version: str) -> Object:
        """Replaces the status; raises ConflictError if the object has changed, NotFoundError."""
        body = {
            "apiVersion": RESOURCES[ref.kind].api_version,
            "kind": str(ref.kind),
            "metadata": {
                "name": ref.name,
                "namespace": ref.namespace,
                "uid": ref.uid,
                "resourceVersion": resource_version,
            },
            "status": status,
        }
        path = f"{object_path(ref)}/status"
        return slim(await self.call("PUT", str(ref.kind), path, body=body), ref.kind)

    async def delete(self, ref: Ref, *, force: bool = False) -> None:
        """Deletes the object of this name and UID; raises NotFoundError."""
        body: Object = {"propagationPolicy": "Background"}
        if ref.uid:
            body["preconditions"] = {"uid": ref.uid}
        if force:
            body["gracePeriodSeconds"] = 0
        try:
            await self.call("DELETE", str(ref.kind), object_path(ref), body=body)
        except ConflictError as error:
            raise NotFoundError(str(error)) from None

    async def record_event(self, event: Object) -> None:
        """Records an event for people; one that repeats itself is counted up.

        Losing one is no reason to fail: it has been told, in whatever way, to those who watch.
        """
        entry = self._book.note(event, time.monotonic())
        if entry is None:
            return
        path = collection_path(EVENTS, event["metadata"]["namespace"])
        try:
            if entry.count > 1:
                changes = {"count": entry.count, "lastTimestamp": event["lastTimestamp"]}
                await self.call("PATCH", "Event", f"{path}/{entry.name}", body=changes)
            else:
                metadata = {"namespace": event["metadata"]["namespace"], "name": entry.name}
                await self.call("POST", "Event", path, body={**event, "metadata": metadata})
        except (ApiError, OSError):
            self._book.forget(event)

    async def call(
        self,
        method: str,
        kind: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """One request with whatever repetitions it takes; the answer.

        Raises:
            ApiError: the server refuses it.
            OSError: nobody answers.
        """
        num_tries = 1
        while True:
            async with self._slots:
                status, headers, answer = await self._send(method, kind, path, body, query)
            if status < 400:
                return answer
            wait = wait_before_retry(status, headers, num_tries)
            if wait is None:
                raise error_for(status, answer if isinstance(answer, dict) else {})
            num_tries += 1
            await asyncio.sleep(wait.total_seconds())

    async def _send(
        self,
        method: str,
        kind: str,
        path: str,
        body: Object | None,
        query: Mapping[str, str] | None,
    ) -> tuple[int, Mapping[str, str], Any]:
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        headers = {}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        started, status = time.monotonic(), 0
        try:
            async with self._session.request(
                method, path, json=body, params=query, headers=headers, timeout=TIMEOUT
            ) as response:
                status = response.status
                is_json = response.content_type == "application/json"
                answer = await response.json() if is_json else {"message": await response.text()}
                return status, response.headers, answer
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise ConnectionError(f"the API server does not answer: {reason}") from error
        finally:
            self._counted(method, kind, status, time.monotonic() - started)
