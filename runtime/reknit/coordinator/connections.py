"""The WebSockets of the agents: one outbox each, so that no agent holds up another."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from reknit.protocol.agents import ToAgent

log = logging.getLogger(__name__)

OUTBOX_SIZE: Final = 1000
"""An agent that lets so many messages pile up is hung up on; it will come back."""
CLOSE_SECONDS: Final = 1.0


class Connection:
    """One agent's WebSocket."""

    def __init__(self, number: int, socket: web.WebSocketResponse) -> None:
        self.number = number
        self._socket = socket
        self._outbox: asyncio.Queue[ToAgent | None] = asyncio.Queue(OUTBOX_SIZE)

    def send(self, message: ToAgent) -> None:
        """Queues a message."""
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("Connection %d is too slow.", self.number)
            self._abort()

    def hang_up(self) -> None:
        """Closes the connection once all that was queued is out."""
        try:
            self._outbox.put_nowait(None)
        except asyncio.QueueFull:
            self._abort()

    def _abort(self) -> None:
        transport = self._socket.get_extra_info("transport")
        if transport is not None:
            transport.abort()

    async def write(self) -> None:
        """Sends what is queued until the connection ends."""
        with suppress(ConnectionError, RuntimeError):
            while (message := await self._outbox.get()) is not None:
                await self._socket.send_str(message.model_dump_json())
        await self.close()

    async def close(self, code: WSCloseCode = WSCloseCode.OK) -> None:
        """Closes the WebSocket; an agent that does not answer is not waited for long."""
        with suppress(ConnectionError, RuntimeError, TimeoutError):
            await asyncio.wait_for(self._socket.close(code=code), CLOSE_SECONDS)

    async def read(self) -> str | None:
        """The next text message; None when the connection has ended."""
        message = await self._socket.receive()
        return message.data if message.type is WSMsgType.TEXT else None
