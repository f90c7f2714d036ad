"""The rank's end of the line to its agent: one JSON message per line, both ways.

One thread reads; another writes what it is given and beats while no step is done, so that neither
a blocked training thread nor a slow agent holds up the other.
"""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Final

from reknit.protocol.base import Generation
from reknit.protocol.ranks import TO_RANK, Abort, Assign, Beat, FromRank, Leave, Phase, StepDone
from reknit.protocol.servers import Leases, Views

_CLOSE: Final = None
_CHUNK: Final = 1 << 16


class Channel:
    """Messages to and from the agent.

    Args:
        connection: this end of the socket pair; taken over.
        heartbeat: time between two beats, or between a step and a beat.
        on_abort: called by the reading thread when a generation is to be left.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        heartbeat: timedelta,
        on_abort: Callable[[Generation], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._heartbeat = heartbeat.total_seconds()
        self._on_abort = on_abort
        self._outbox: queue.SimpleQueue[FromRank | None] = queue.SimpleQueue()
        self._place = (Phase.STARTING, 0)
        self._changed = threading.Condition()
        self._assigned: tuple[Assign, socket.socket | None] | None = None
        """The newest place, until it is taken."""
        self._aborted: Generation | None = None
        self._reached = 0
        self._regrouping = False
        self._views: Views | None = None
        self._hear_views: Callable[[Views | Leases], None] = lambda _: None
        self._leaving = self._released = self._ended = False
        self._threads = [
            threading.Thread(target=self._read, name="reknit-channel-reader", daemon=True),
            threading.Thread(target=self._write, name="reknit-channel-writer", daemon=True),
        ]

    def start(self) -> None:
        """Reads and beats from now on."""
        for thread in self._threads:
            thread.start()

    @property
    def leaving(self) -> bool:
        """Whether the rank has been told to leave."""
        return self._leaving

    @property
    def regrouping(self) -> bool:
        """Whether the rank was told to leave its generation at a step boundary, and to stay."""
        return self._regrouping

    @property
    def has_place(self) -> bool:
        """Whether a place is waiting to be taken."""
        return self._assigned is not None

    def is_aborted(self, generation: Generation) -> bool:
        """Whether this generation was to be left."""
        return self._aborted is not None and self._aborted.key() >= generation.key()

    def tell(self, message: FromRank) -> None:
        """Sends a message, after all earlier ones; does not block."""
        self._outbox.put(message)

    def enter(self, phase: Phase, step: int) -> None:
        """Declares what the beats are to say."""
        self._place = (phase, step)

    def reach(self, place: int) -> None:
        """Declares how far the rank has come within the step."""
        self._reached = place

    def follow(self, hear: Callable[[Views | Leases], None]) -> None:
        """From now on `hear` is called with the latest views, and with all that come later.

        By the reading thread, or here; of several calls of this the last one counts.
        """
        with self._changed:
            self._hear_views = hear
            if self._views is not None:
                hear(self._views)

    def take_place(self) -> tuple[Assign, socket.socket | None] | None:
        """Waits for a place; None when the rank is to leave, is released, or the line is closed.

        The socket is the listener of the generation's store on the rank that hosts it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._assigned or self._is_over())
            assigned, self._assigned = self._assigned, None
            self._regrouping = False
            return assigned

    def wait_for_abort(self, generation: Generation) -> bool:
        """Waits until this generation is to be left; False if the rank's time is over instead."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.is_aborted(generation) or self._released or self._ended
            )
            return self.is_aborted(generation)

    def wait_for_release(self, generation: Generation) -> bool:
        """Waits, at the end of the work, for what comes next.

        True when the rank is released or the line closed; False if the generation is to be left.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.is_aborted(generation) or self._released or self._ended
            )
            return self._released or self._ended

    @property
    def released(self) -> bool:
        """Whether the agent has released the rank."""
        return self._released

    def wait_for_end(self) -> None:
        """Waits until the process is released, or the line closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._released or self._ended)

    def close(self, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Sends what has been told, then closes the line."""
        self._outbox.put(_CLOSE)
        self._threads[1].join(timeout.total_seconds())
        # Ends the reader, which would otherwise keep the descriptor open.
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(timeout.total_seconds())
        self._connection.close()

    def _is_over(self) -> bool:
        return self._leaving or self._released or self._ended

    def _messages(self) -> Iterator[tuple[object, socket.socket | None]]:
        """Messages, each with the socket that came along with it."""
        rest = b""
        sent: list[int] = []
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._connection, _CHUNK, 4)
            except OSError:
                return
            sent += descriptors
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                message = TO_RANK.validate_json(line)
                attached = None
                if sent and isinstance(message, Assign):
                    attached = socket.socket(fileno=sent.pop(0))
                yield message, attached

    def _read(self) -> None:
        for message, attached in self._messages():
            with self._changed:
                match message:
                    case Assign():
                        self._assigned = (message, attached)
                    case Abort(generation=generation) if not self.is_aborted(generation):
                        self._aborted = generation
                        # Whoever is to leave all the same is told so again.
                        self._leaving = False
                    case Abort():
                        pass
                    case Leave(stay=True):
                        self._regrouping = True
                    case Leave():
                        self._leaving = True
                    case Views() | Leases():
                        if isinstance(message, Views):
                            self._views = message
                        self._hear_views(message)
                    case _:
                        self._released = True
                self._changed.notify_all()
            if isinstance(message, Abort):
                self._on_abort(message.generation)
            if self._released:
                break
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _write(self) -> None:
        next_beat = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_beat:
                phase, step = self._place
                message: FromRank | None = Beat(phase=phase, step=step, place=self._reached)
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
