"""Serves /healthz and /metrics."""

from collections.abc import Callable
from typing import Final

from aiohttp import web

from reknit.errors import ConfigurationError

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class HealthServer:
    """HTTP for the kubelet and for Prometheus.

    Args:
        stale: the watches that are dead.
        metrics: the text of a scrape.
    """

    def __init__(self, stale: Callable[[], list[str]], metrics: Callable[[], bytes]) -> None:
        self._stale = stale
        self._metrics = metrics
        app = web.Application()
        app.add_routes(
            [web.get("/healthz", self._serve_health), web.get("/metrics", self._serve_metrics)]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self, port: int) -> None:
        """Listens on all addresses.

        Raises:
            ConfigurationError: the port cannot be listened on.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, None, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"port {port} cannot be used ({error.strerror}), choose another one with --port"
            ) from error

    async def close(self) -> None:
        """Ends every connection."""
        await self._runner.cleanup()

    async def _serve_health(self, _request: web.Request) -> web.Response:
        stale = self._stale()
        if stale:
            text = "".join(f"The watch of {path} has fallen silent.\n" for path in stale)
            return web.Response(status=503, text=text)
        return web.Response(text="ok\n")

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": _METRICS_TYPE})
