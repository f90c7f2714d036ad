"""Passes the coordinator's /metrics on at a port that stays the same."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from reknit.errors import ConfigurationError

HOST: Final = "127.0.0.1"


class MetricsServer:
    """Serves /metrics on this machine only.

    Args:
        fetch: the metrics of the coordinator that runs now, None while there is none.
    """

    def __init__(self, fetch: Callable[[], Awaitable[str | None]]) -> None:
        self._fetch = fetch
        app = web.Application()
        app.add_routes([web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, shutdown_timeout=1.0, access_log=None)

    async def start(self, port: int) -> None:
        """Listens on `port`.

        Raises:
            ConfigurationError: the port is in use or not for this user.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"port {port} for metrics cannot be used ({error.strerror}); choose another one"
            ) from error

    async def close(self) -> None:
        """Ends every connection."""
        await self._runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        text = await self._fetch()
        if text is None:
            return web.Response(status=503, text="the coordinator is being started\n")
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})
