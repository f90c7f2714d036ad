"""The API as a test sees it: plain objects, and waiting for what is to come by watches."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp

from apiserver import ADMIN, ApiServer
from reknit_operator.constants import Kind
from reknit_operator.kube.resources import RESOURCES, collection_path

Object = dict[str, Any]
NODE = "node-1"


async def eventually(fits: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Asks again and again until it fits: for what no watch tells of."""
    async with asyncio.timeout(seconds):
        while not await fits():  # noqa: ASYNC110 - nothing would set an event
            await asyncio.sleep(0.02)


class RefusalError(Exception):
    """The API server has said no; the Status object stands in `answer`."""

    def __init__(self, status: int, answer: Object) -> None:
        super().__init__(f"{status}: {answer.get('message')}")
        self.status = status
        self.answer = answer


class Api:
    """One user's view of one API server."""

    def __init__(self, server: ApiServer, user: str = ADMIN) -> None:
        self._session = aiohttp.ClientSession(
            base_url=server.url,
            headers={"Authorization": f"Bearer {server.token(user)}"},
            connector=aiohttp.TCPConnector(ssl=server.context(), limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=2**24,
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: object = None, **query: str) -> Object:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, path, data=data, params=query, headers={"Content-Type": kind}
        ) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            answer = json.loads(text) if is_json else {"message": text}
            if response.status >= 400:
                raise RefusalError(response.status, answer)
            return answer

    async def create(self, item: Object) -> Object:
        path = collection_path(RESOURCES[Kind(item["kind"])], item["metadata"]["namespace"])
        return await self.call("POST", path, item)

    async def table(self, kind: Kind, namespace: str) -> list[dict[str, Any]]:
        """What `kubectl get -o wide` shows: for each object its cells by their column."""
        path = collection_path(RESOURCES[kind], namespace)
        accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        async with self._session.get(path, headers=accept) as response:
            found = json.loads(await response.text())
        names = [column["name"] for column in found["columnDefinitions"]]
        return [dict(zip(names, row["cells"], strict=True)) for row in found["rows"]]

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self.call("GET", f"{collection_path(RESOURCES[kind], namespace)}/{name}")

    async def list(self, kind: Kind, namespace: str) -> list[Object]:
        listed = await self.call("GET", collection_path(RESOURCES[kind], namespace))
        return [{"kind": str(kind), **item} for item in listed["items"]]

    async def patch(self, kind: Kind, namespace: str, name: str, changes: Object) -> Object:
        path = f"{collection_path(RESOURCES[kind], namespace)}/{name}"
        return await self.call("PATCH", path, changes)

    async def delete(self, kind: Kind, namespace: str, name: str, *, grace: int | None = None):
        path = f"{collection_path(RESOURCES[kind], namespace)}/{name}"
        body = {} if grace is None else {"gracePeriodSeconds": grace}
        return await self.call("DELETE", path, body)

    async def set_status(self, item: Object, status: Object) -> Object:
        """Replaces the status, whatever has changed meanwhile."""
        metadata = item["metadata"]
        base = collection_path(RESOURCES[Kind(item["kind"])], metadata["namespace"])
        return await self.call("PATCH", f"{base}/{metadata['name']}/status", {"status": status})

    async def bind(self, pod: Object, node: str = NODE) -> None:
        """What a scheduler does."""
        metadata = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        path = collection_path(RESOURCES[Kind.POD], metadata["namespace"])
        await self.call("POST", f"{path}/{metadata['name']}/binding", body)

    async def changes(self, kind: Kind, namespace: str) -> AsyncIterator[tuple[str, Object]]:
        """All objects as ADDED, then every change, endless."""
        path = collection_path(RESOURCES[kind], namespace)
        listed = await self.call("GET", path)
        for item in listed["items"]:
            yield "ADDED", {"kind": str(kind), **item}
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        async with self._session.get(path, params=query) as response:
            try:
                async for line in response.content:
                    change = json.loads(line)
                    yield change["type"], change["object"]
            finally:
                # To end it in good order takes an answer, for which the loop may not run any more.
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()

    async def until(
        self,
        kind: Kind,
        namespace: str,
        fits: Callable[[dict[str, Object]], bool],
        seconds: float = 60,
    ) -> dict[str, Object]:
        """The objects by name once they fit."""
        found: dict[str, Object] = {}
        if fits(found):
            return found
        changes = contextlib.aclosing(self.changes(kind, namespace))
        async with asyncio.timeout(seconds), changes as stream:
            async for change, item in stream:
                if change == "DELETED":
                    found.pop(item["metadata"]["name"], None)
                else:
                    found[item["metadata"]["name"]] = item
                if fits(found):
                    return found
        raise AssertionError("the watch has ended")
