"""Serves the object store on a unix socket, as JSON."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from reknit_operator.constants import Kind
from reknit_operator.local.store import ObjectStore
from reknit_operator.reconcile.client import ApiError, ExpiredError
from reknit_operator.reconcile.observed import Ref

_STATUS: Final = 409
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        body = {"error": type(error).__name__, "message": str(error)}
        return web.json_response(body, status=_STATUS)


class StoreServer:
    """One server for one store; only this user's processes can reach the socket's folder."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        app = web.Application(middlewares=[_errors])
        app.add_routes(
            [
                web.post("/objects", self._create),
                web.get("/objects/{kind}", self._list),
                web.get("/watch/{kind}", self._watch),
                web.get("/objects/{kind}/{namespace}/{name}", self._get),
                web.put("/objects/{kind}/{namespace}/{name}/status", self._patch_status),
                web.delete("/objects/{kind}/{namespace}/{name}", self._delete),
                web.post("/events", self._record_event),
            ]
        )
        # Watches never end by themselves; closing must not wait for them.
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)

    async def start(self, socket: Path) -> None:
        """Listens on `socket`."""
        await self._runner.setup()
        await web.UnixSite(self._runner, str(socket)).start()

    async def close(self) -> None:
        """Ends every connection."""
        await self._runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        return web.json_response(await self._store.create(await request.json()))

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(await self._store.get(_ref(request)))

    async def _list(self, request: web.Request) -> web.Response:
        labels = json.loads(request.query.get("labels", "{}"))
        listed = await self._store.list(Kind(request.match_info["kind"]), labels=labels)
        return web.json_response({"items": listed.items, "version": listed.resource_version})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        events = self._store.watch(Kind(request.match_info["kind"]), after=request.query["after"])
        try:
            async for event in events:
                line = json.dumps({"type": event.type, "object": event.object})
                await response.write(line.encode() + b"\n")
        except ExpiredError as error:
            body = {"error": type(error).__name__, "message": str(error)}
            await response.write(json.dumps(body).encode() + b"\n")
        except ConnectionError:
            return response
        return response

    async def _patch_status(self, request: web.Request) -> web.Response:
        written = await self._store.patch_status(
            _ref(request), await request.json(), resource_version=request.query["version"]
        )
        return web.json_response(written)

    async def _delete(self, request: web.Request) -> web.Response:
        await self._store.delete(_ref(request), force=request.query.get("force") == "1")
        return web.json_response({})

    async def _record_event(self, request: web.Request) -> web.Response:
        await self._store.record_event(await request.json())
        return web.json_response({})


def _ref(request: web.Request) -> Ref:
    path = request.match_info
    uid = request.query.get("uid", "")
    return Ref(Kind(path["kind"]), path["namespace"], path["name"], uid)
