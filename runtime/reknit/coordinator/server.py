"""The coordinator's server: a WebSocket per agent, and HTTP for the operator and Prometheus."""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from aiohttp import WSCloseCode, web
from pydantic import ValidationError

from reknit.coordinator.connections import Connection
from reknit.coordinator.events import (
    Action,
    ConfirmedGone,
    Disconnected,
    Event,
    HangUp,
    Received,
    Send,
    StepDown,
    Tick,
    Write,
)
from reknit.coordinator.history import Ring
from reknit.coordinator.membership import handle
from reknit.coordinator.metrics import CONTENT_TYPE, Metrics
from reknit.coordinator.policy import Policy
from reknit.coordinator.state import new_membership
from reknit.coordinator.view import status_of
from reknit.protocol.agents import FROM_AGENT
from reknit.protocol.settings import JobSettings
from reknit.protocol.status import EventRecord

log = logging.getLogger(__name__)

TICK: Final = timedelta(milliseconds=100)
_MAX_MESSAGE_BYTES: Final = 1 << 24
"""An agent that registers brings hundreds of steps along, with all that the user has logged."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """One job's coordinator. `start`, then `run` until it returns or is cancelled, then `close`."""

    def __init__(
        self,
        settings: JobSettings,
        *,
        token: str,
        incarnation: int,
        policy: Policy | None = None,
        tick: timedelta = TICK,
    ) -> None:
        """`policy` overrides the rules that follow from the settings."""
        self._token = f"Bearer {token}".encode()
        self._tick = tick
        self._origin = time.time() - time.monotonic()
        rules = policy or Policy.of(settings)
        self._state = new_membership(rules, incarnation, self._now())
        self._history = Ring(incarnation)
        self._metrics = Metrics(
            settings.name, settings.namespace, lambda: (self._state, self._now())
        )
        self._connections: dict[int, Connection] = {}
        self._next_connection = 1
        self._superseded = asyncio.Event()
        self._runner: web.AppRunner | None = None

    def _now(self) -> float:
        """Seconds since the epoch that never go back, whatever is done to the clock."""
        return self._origin + time.monotonic()

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port.

        Raises:
            OSError: the address cannot be listened on.
        """
        app = web.Application()
        app.add_routes(
            [
                web.get("/agent", self._guarded(self._serve_agent)),
                web.get("/status", self._guarded(self._serve_status)),
                web.get("/history", self._guarded(self._serve_history)),
                web.post("/gone", self._guarded(self._serve_gone)),
                web.get("/metrics", self._serve_metrics),
                web.get("/healthz", self._serve_health),
            ]
        )
        # The access log would show headers on demand; the token has no business in any log.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, reuse_address=True)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        return int(self._runner.addresses[0][1])

    async def run(self) -> int:
        """Lets time pass until a coordinator of a higher incarnation appears; returns that."""
        while not self._superseded.is_set():
            self.handle(Tick())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._superseded.wait(), self._tick.total_seconds())
        return self._state.superseded_by or 0

    async def close(self) -> None:
        """Closes all connections; agents go on and will look for the next coordinator."""
        connections = tuple(self._connections.values())
        await asyncio.gather(*(c.close(WSCloseCode.GOING_AWAY) for c in connections))
        if self._runner is not None:
            await self._runner.cleanup()

    def handle(self, event: Event) -> None:
        """Takes an event into the membership and does what it asks for."""
        self._state, actions = handle(self._state, event, self._now())
        for action in actions:
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Send(connection, message):
                if connection in self._connections:
                    self._connections[connection].send(message)
            case HangUp(connection):
                if connection in self._connections:
                    self._connections[connection].hang_up()
            case Write(record):
                self._history.append(record)
                self._metrics.count(record)
                if isinstance(record, EventRecord):
                    log.info("%s", record.message)
            case StepDown():
                self._superseded.set()

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            if not hmac.compare_digest(given, self._token):
                return web.Response(status=401, text="The bearer token is wrong or missing.\n")
            return await handler(request)

        return guarded

    async def _serve_agent(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=_MAX_MESSAGE_BYTES)
        await socket.prepare(request)
        connection = Connection(self._next_connection, socket)
        self._next_connection += 1
        self._connections[connection.number] = connection
        writer = asyncio.create_task(connection.write())
        try:
            while (text := await connection.read()) is not None:
                try:
                    message = FROM_AGENT.validate_json(text)
                except ValidationError as error:
                    kinds = {e["type"] for e in error.errors(include_input=False)}
                    log.warning("A message is not understood: %s.", ", ".join(sorted(kinds)))
                    break
                self.handle(Received(connection.number, message))
        finally:
            del self._connections[connection.number]
            self.handle(Disconnected(connection.number))
            writer.cancel()
            await connection.close()
        return socket

    async def _serve_status(self, request: web.Request) -> web.Response:
        del request
        return _json(status_of(self._state).model_dump_json())

    async def _serve_history(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit()):
            return web.Response(status=400, text="after must be a number from 0 on.\n")
        return _json(self._history.after(int(after)).model_dump_json())

    async def _serve_gone(self, request: web.Request) -> web.Response:
        """The operator confirms that a pod has no process any more."""
        name = request.query.get("agent", "")
        if not name:
            return web.Response(status=400, text="agent must name a pod.\n")
        self.handle(ConfirmedGone(name))
        if name in self._state.agents:
            # The end of its connection is still on the way.
            return web.Response(status=409, text=f"{name} is connected.\n")
        return web.Response(status=204)

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _serve_health(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok\n")


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")
