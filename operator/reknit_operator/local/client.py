"""The object API over the unix socket of a local store."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp

from reknit_operator.constants import Kind
from reknit_operator.local.wire import ERRORS
from reknit_operator.reconcile.client import Object, ObjectList, WatchEvent
from reknit_operator.reconcile.observed import Ref

_BASE: Final = "http://store"
_LONGEST_LINE: Final = 2**24
_GONE: Final = "the object store has gone away"
_FOREVER: Final = aiohttp.ClientTimeout(total=None)


class StoreClient:
    """Implements `ObjectClient`; an async context manager."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "StoreClient":
        connector = aiohttp.UnixConnector(str(self._socket), limit=0)
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=_LONGEST_LINE)
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
        created: Object = await self._call("POST", "/objects", body=item)
        return created

    async def get(self, ref: Ref) -> Object:
        """The object; raises NotFoundError."""
        found: Object = await self._call("GET", _path(ref), query={"uid": ref.uid})
        return found

    async def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None) -> ObjectList:
        """All objects of `kind` that carry `labels`."""
        query = {"labels": json.dumps(dict(labels or {}))}
        listed = await self._call("GET", f"/objects/{kind}", query=query)
        return ObjectList(tuple(listed["items"]), listed["version"])

    async def watch(self, kind: Kind, *, after: str) -> AsyncIterator[WatchEvent]:
        """Changes after resource version `after`, until the store goes away.

        Raises:
            ExpiredError: the changes are no longer kept.
            ConnectionError: the store has gone away.
        """
        url = f"{_BASE}/watch/{kind}"
        session = self._open()
        try:
            async with session.get(url, params={"after": after}, timeout=_FOREVER) as response:
                async for line in response.content:
                    change = json.loads(line)
                    if "error" in change:
                        raise ERRORS[change["error"]](change["message"])
                    yield WatchEvent(change["type"], change["object"])
        except aiohttp.ClientError as error:
            raise ConnectionError(_GONE) from error
        raise ConnectionError(_GONE)

    async def patch_status(self, ref: Ref, status: Object, *, resource_version: str) -> Object:
        """Replaces the status; raises ConflictError if the object has changed, NotFoundError."""
        query = {"uid": ref.uid, "version": resource_version}
        path = f"{_path(ref)}/status"
        written: Object = await self._call("PUT", path, body=status, query=query)
        return written

    async def delete(self, ref: Ref, *, force: bool = False) -> None:
        """Deletes the object of this name and UID; raises NotFoundError."""
        await self._call("DELETE", _path(ref), query={"uid": ref.uid, "force": str(int(force))})

    async def record_event(self, event: Object) -> None:
        """Records an event for people."""
        await self._call("POST", "/events", body=event)

    async def _call(
        self, method: str, path: str, *, body: Object | None = None, query: Any = None
    ) -> Any:
        session = self._open()
        try:
            async with session.request(method, _BASE + path, json=body, params=query) as response:
                answer = await response.json()
        except aiohttp.ClientError as error:
            raise ConnectionError(_GONE) from error
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["message"])
        return answer

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        return self._session


def _path(ref: Ref) -> str:
    return f"/objects/{ref.kind}/{ref.namespace}/{ref.name}"
