"""The rank's end of the line to its agent: one JSON message per line, both ways.

One thread reads; another writes what it is given and beats while no step is done, so that neither
a blocked training thread nor a slow agent holds up the other.
"""

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Final

from reknit.protocol.ranks import TO_RANK, Assign, Beat, FromRank, Leave, Phase, StepDone

_CLOSE: Final = None


class Channel:
    """Messages to and from the agent.

    Args:
        connection: this end of the socket pair; taken over.
        heartbeat: time between two beats, or between a step and a beat.
    """

    def __init__(self, connection: socket.socket, *, heartbeat: timedelta) -> None:
        self._connection = connection
        self._heartbeat = heartbeat.total_seconds()
        self._lines = connection.makefile("rb")
        self._outbox: queue.SimpleQueue[FromRank | None] = queue.SimpleQueue()
        self._place = (Phase.STARTING, 0)
        self._leaving = threading.Event()
        self._released = threading.Event()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, name="reknit-channel-reader", daemon=True),
            threading.Thread(target=self._write, name="reknit-channel-writer", daemon=True),
        ]

    def start(self) -> Assign:
        """Waits for the agent's first message, then beats from now on.

        Raises:
            ConnectionError: the agent closed the line, or its first message is another one.
        """
        message = next(self._messages(), None)
        if not isinstance(message, Assign):
            self._lines.close()
            self._connection.close()
            raise ConnectionError("the agent gave this rank no place")
        for thread in self._threads:
            thread.start()
        return message

    @property
    def leaving(self) -> bool:
        """Whether the rank has been told to leave."""
        return self._leaving.is_set()

    def tell(self, message: FromRank) -> None:
        """Sends a message, after all earlier ones; does not block."""
        self._outbox.put(message)

    def enter(self, phase: Phase, step: int) -> None:
        """Declares what the beats are to say."""
        self._place = (phase, step)

    def wait_for_release(self) -> bool:
        """Waits until the agent releases the rank; False if it closed the line instead."""
        self._ended.wait()
        return self._released.is_set()

    def wait_for_end(self, timeout: timedelta) -> None:
        """Waits until the agent releases the rank or closes the line, or for `timeout`."""
        self._ended.wait(timeout.total_seconds())

    def close(self, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Sends what has been told, then closes the line."""
        self._outbox.put(_CLOSE)
        self._threads[1].join(timeout.total_seconds())
        # Ends the reader, which would otherwise keep the descriptor open.
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(timeout.total_seconds())
        self._lines.close()
        self._connection.close()

    def _messages(self) -> Iterator[object]:
        try:
            for line in self._lines:
                yield TO_RANK.validate_json(line)
        except OSError:
            return

    def _read(self) -> None:
        for message in self._messages():
            if isinstance(message, Leave):
                self._leaving.set()
            elif not isinstance(message, Assign):
                self._released.set()
                break
        self._ended.set()

    def _write(self) -> None:
        next_beat = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_beat:
                phase, step = self._place
                message: FromRank | None = Beat(phase=phase, step=step)
            else:
                try:
                    message = self._outbox.get(timeout=next_beat - now)
                except queue.Empty:
                    continue
                if message is _CLOSE:
                    return
            assert message is not None
            if isinstance(message, Beat | StepDone):
                # A step says all that a beat does.
                next_beat = time.monotonic() + self._heartbeat
            try:
                self._connection.sendall(message.model_dump_json().encode() + b"\n")
            except OSError:
                # The agent is gone. Whoever needs to know hears it from the reader.
                return
