"""The connection to the coordinator: made again for ever, whatever becomes of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Final

import aiohttp
from pydantic import ValidationError

from reknit.agent.outbox import Outbox, is_patient
from reknit.protocol.agents import TO_AGENT, FromAgent, ToAgent
from reknit.protocol.base import Endpoint

MIN_DELAY: Final = timedelta(milliseconds=50)
MAX_DELAY: Final = timedelta(seconds=1)
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_PING_EVERY: Final = timedelta(seconds=5)
"""A coordinator whose machine has vanished is noticed by its missing answer."""
_MAX_MESSAGE_BYTES: Final = 1 << 24


def next_delay(delay: timedelta) -> timedelta:
    """The wait after another failed attempt."""
    return min(2 * delay, MAX_DELAY)


class Link:
    """Carries messages both ways; tells when a connection stands and when it is gone."""

    def __init__(
        self,
        coordinator: Endpoint,
        token: str,
        *,
        on_connected: Callable[[], None],
        on_disconnected: Callable[[], None],
        on_message: Callable[[ToAgent], None],
        log: Callable[[str], None],
    ) -> None:
        host = f"[{coordinator.host}]" if ":" in coordinator.host else coordinator.host
        self._url = f"http://{host}:{coordinator.port}/agent"
        self._token = token
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_message = on_message
        self._log = log
        self._outbox = Outbox()
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()
        self._connection: aiohttp.ClientWebSocketResponse | None = None
        self._complaint = ""

    def send(self, message: FromAgent) -> None:
        """Queues a message for this connection or the next one; a step goes with the next other."""
        self._outbox.add(message, monotonic())
        self._emptied.clear()
        if not is_patient(message):
            self._changed.set()

    async def flush(self, limit: timedelta) -> None:
        """Waits until all is sent, if there is a connection, but no longer than `limit`."""
        if self._connection is not None:
            self._changed.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), limit.total_seconds())

    async def hang_up(self) -> None:
        """Closes the connection; another one will be tried."""
        if self._connection is not None:
            await self._connection.close()

    async def run(self) -> None:
        """Connects, and connects again, until cancelled."""
        delay = MIN_DELAY
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._token}"}, trust_env=False
        ) as session:
            while True:
                try:
                    async with asyncio.timeout(_CONNECT_TIMEOUT.total_seconds()):
                        connection = await session.ws_connect(
                            self._url,
                            heartbeat=_PING_EVERY.total_seconds(),
                            max_msg_size=_MAX_MESSAGE_BYTES,
                        )
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    self._complain(f"no coordinator at {self._url}: {_reason(error)}")
                else:
                    if await self._converse(connection):
                        delay = MIN_DELAY
                await asyncio.sleep(delay.total_seconds())
                delay = next_delay(delay)

    async def _converse(self, connection: aiohttp.ClientWebSocketResponse) -> bool:
        """Speaks until the connection ends; whether the coordinator said anything."""
        self._connection = connection
        self._on_connected()
        sending = asyncio.create_task(self._send_all(connection))
        heard = False
        try:
            async for packet in connection:
                if packet.type is not aiohttp.WSMsgType.TEXT:
                    continue
                heard = True
                self._complaint = ""
                try:
                    message = TO_AGENT.validate_json(packet.data)
                except ValidationError as error:
                    self._log(f"unknown words of the coordinator: {error.errors()[0]['msg']}")
                    continue
                self._on_message(message)
        finally:
            self._connection = None
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            await connection.close()
            self._on_disconnected()
        return heard

    async def _send_all(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            while (message := self._outbox.take(monotonic())) is not None:
                try:
                    await connection.send_str(message.model_dump_json())
                except (aiohttp.ClientError, OSError) as error:
                    self._outbox.put_back(message, monotonic())
                    self._complain(f"the connection to the coordinator broke: {_reason(error)}")
                    await connection.close()
                    return
            self._emptied.set()
            self._changed.clear()
            await self._changed.wait()

    def _complain(self, text: str) -> None:
        """Logs a complaint that is not the same as the last one."""
        if text != self._complaint:
            self._complaint = text
            self._log(text)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
