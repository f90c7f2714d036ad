"""The key-value server at which Horovod's ranks find each other.

`horovodrun` brings such a server: Horovod's Gloo controller puts and gets values over HTTP, under
/scope/key, and says with DELETE that a rank needs it no more. Here rank 0's agent is that server.
"""

import socket
from typing import Final

from aiohttp import web

_MAX_VALUE_BYTES: Final = 1 << 20


class Rendezvous:
    """Serves the values of one generation on an inherited listener."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._values: dict[str, bytes] = {}
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serves until `stop`; connections made before wait in the listener's backlog."""
        app = web.Application(client_max_size=_MAX_VALUE_BYTES)
        app.router.add_get("/{path:.+}", self._get)
        app.router.add_put("/{path:.+}", self._put)
        app.router.add_delete("/{path:.+}", self._delete)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener).start()

    async def stop(self) -> None:
        """Closes the listener and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._listener.close()

    async def _get(self, request: web.Request) -> web.Response:
        value = self._values.get(request.match_info["path"])
        if value is None:
            return web.Response(status=404)
        return web.Response(body=value)

    async def _put(self, request: web.Request) -> web.Response:
        self._values[request.match_info["path"]] = await request.read()
        return web.Response()

    async def _delete(self, _request: web.Request) -> web.Response:
        """A rank is done; its values stay, slower ranks still need them."""
        return web.Response()
