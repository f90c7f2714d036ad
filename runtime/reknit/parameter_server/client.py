"""A worker's connection to all ranges; it works in a thread of its own.

Requests return at once, so that a push is under way while the next step is computed, and weights
can be asked for before they are needed.
"""

import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeAlias

import zmq

from reknit.errors import ReknitError
from reknit.parameter_server.frames import Parcel
from reknit.parameter_server.links import Links
from reknit.parameter_server.messages import Joined, Kind, Reason, Refused, Reply
from reknit.parameter_server.session import (
    Event,
    Finish,
    Issue,
    Replied,
    Session,
    Tick,
    Transmit,
    Viewed,
    Void,
    handle,
)
from reknit.parameter_server.tensors import Content
from reknit.parameter_server.views import View
from reknit.protocol.base import Json

_TICK: Final = 0.02
_CLOSED: Final = "the connection to the parameter servers is closed"
_CHANGED: Final = "other workers share this step from now on"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request to all ranges."""

    kind: Kind
    clock: int
    contents: tuple[Content, ...]
    pending: "Pending"
    source: str = ""


_Command: TypeAlias = tuple[int, Viewed] | _Wanted


class WorkersChangedError(ReknitError):
    """In synchronous mode: the step has to be taken anew, from the clock that `join` says."""


class RefusedError(ReknitError):
    """A range refuses the request for good."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"a parameter server refuses the request: {reason}")
        self.reason = reason


class ClosedError(ReknitError):
    """The client was closed before an answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One range's."""

    reply: Reply
    tensors: Content = field(default_factory=dict)
    scalars: Mapping[str, Json] = field(default_factory=dict)


class Pending:
    """Answers of all ranges to one request, once they are there."""

    def __init__(self, num_ranges: int) -> None:
        self._answers: dict[int, Answer] = {}
        self._left = num_ranges
        self._error: ReknitError | None = None
        self._done = threading.Event()

    def result(self, timeout: float | None = None) -> list[Answer]:
        """The answers by range.

        Raises:
            WorkersChangedError: the step is void.
            RefusedError: this process has lost its place, or asks for what does not exist.
            ClosedError: the client is closed.
            TimeoutError: there is no answer within `timeout` seconds.
        """
        if not self._done.wait(timeout):
            raise TimeoutError("the parameter servers do not answer")
        if self._error is not None:
            raise self._error
        return [self._answers[number] for number in sorted(self._answers)]

    def answer(self, number: int, answer: Answer) -> None:
        """One range has answered."""
        self._answers[number] = answer
        self._left -= 1
        if isinstance(answer.reply, Refused):
            self.fail(RefusedError(answer.reply.reason))
        elif self._left == 0:
            self._done.set()

    def fail(self, error: ReknitError) -> None:
        """There will be no complete answer; the first reason counts."""
        self._error = self._error or error
        self._done.set()


class Client:
    """One worker's process. `see` tells it the views, from any thread; all else is for one thread.

    Args:
        num_ranges: of the model.
        worker: this process's place.
        incarnation: grows with each process in that place.
        token: the job's secret.
        is_synchronous: whether all workers take each step together.
        max_frame_bytes: a server that sends a larger tensor is disconnected.
    """

    def __init__(
        self,
        num_ranges: int,
        *,
        worker: int,
        incarnation: int,
        token: str,
        is_synchronous: bool,
        max_frame_bytes: int,
    ) -> None:
        self._name = f"worker-{worker}.{incarnation}"
        self._sessions = [Session(worker, incarnation, is_synchronous) for _ in range(num_ranges)]
        self._numbers = count(1)
        self._pending: dict[tuple[int, int], Pending] = {}
        self._commands: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._addresses: dict[str, str] = {}
        self._links = Links(token, max_frame_bytes)
        self._ours, self._theirs = socket.socketpair()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="parameter-server", daemon=True)
        self._thread.start()

    def see(self, number: int, view: View, addresses: Mapping[str, str]) -> None:
        """The coordinator has published a view of a range; `addresses`: host:port by server."""
        self._addresses = self._addresses | dict(addresses)
        self._command((number, Viewed(view)))

    def join(self) -> Pending:
        """Asks each range for the next clock of this place; see `first_clock`."""
        return self._issue(Kind.JOIN, 0, [{} for _ in self._sessions])

    def pull(self, clock: int, wishes: Sequence[Content]) -> Pending:
        """Asks for the weights that step `clock` needs.

        Args:
            clock: answered once all pushes that it must see are applied.
            wishes: what is wanted of each range.
        """
        return self._issue(Kind.PULL, clock, wishes)

    def push(self, clock: int, gradients: Sequence[Content]) -> Pending:
        """Sends the gradient of step `clock`, which must not be written to any more.

        Answered when primary and backup of every range have it. In synchronous mode the step is
        committed once a pull of the next clock is answered.
        """
        return self._issue(Kind.PUSH, clock, gradients)

    def restore(self, version: int, source: str) -> Pending:
        """Has all ranges give up what they hold for a version from elsewhere; see `Restored`."""
        return self._issue(Kind.RESTORE, version, [{} for _ in self._sessions], source)

    def describe(self, version: int, wishes: Sequence[Content]) -> Pending:
        """Asks for all that a checkpoint holds of the ranges whose wish is not empty.

        Of the others for the specifications. No push of a later step may be under way.
        """
        return self._issue(Kind.DESCRIBE, version, wishes)

    def metrics(self) -> dict[str, float]:
        """Counts since the start: bytes and bad messages."""
        return dict(self._links.counts)

    def close(self) -> None:
        """Ends the connections; requests without an answer fail."""
        if not self._is_closed:
            self._is_closed = True
            self._commands.put(None)
            self._wake()
            self._thread.join()
            self._ours.close()
            self._theirs.close()

    def _issue(
        self, kind: Kind, clock: int, contents: Sequence[Content], source: str = ""
    ) -> Pending:
        pending = Pending(len(self._sessions))
        if self._is_closed:
            pending.fail(ClosedError(_CLOSED))
        else:
            self._command(_Wanted(kind, clock, tuple(contents), pending, source))
        return pending

    def _command(self, command: _Command) -> None:
        self._commands.put(command)
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            self._ours.send(b"\0", socket.MSG_DONTWAIT)

    def _run(self) -> None:
        wake = self._theirs.fileno()
        self._links.poller.register(wake, zmq.POLLIN)
        try:
            while self._take_commands():
                waits = any(session.requests for session in self._sessions)
                ready = self._links.poll(_TICK if waits else None)
                if wake in ready:
                    self._theirs.recv(4096)
                for server, parcel in self._links.receive(ready):
                    if isinstance(parcel.message, Reply) and parcel.number < len(self._sessions):
                        content = (parcel.tensors, parcel.scalars)
                        replied = Replied(server, parcel.message, content)
                        self._feed(parcel.number, replied)
                for number in range(len(self._sessions)):
                    self._feed(number, Tick())
        finally:
            self._links.close()
            for pending in tuple(self._pending.values()):
                pending.fail(ClosedError(_CLOSED))

    def _take_commands(self) -> bool:
        """Does what the other threads want; False at the end."""
        with suppress(queue.Empty):
            while (command := self._commands.get_nowait()) is not None:
                if isinstance(command, _Wanted):
                    self._begin(command)
                else:
                    self._feed(*command)
                    views = [session.view for session in self._sessions]
                    self._links.keep({view.primary for view in views if view is not None})
            return False
        return True

    def _begin(self, wanted: _Wanted) -> None:
        """Issues a request to all ranges or, if it is void in one of them, to none.

        Else a range that does not know the new workers yet would take a share of the old ones'.
        """
        if wanted.kind is not Kind.JOIN and any(session.is_void for session in self._sessions):
            wanted.pending.fail(WorkersChangedError(_CHANGED))
            return
        for number, content in zip(range(len(self._sessions)), wanted.contents, strict=True):
            request = next(self._numbers)
            self._pending[number, request] = wanted.pending
            issue = Issue(request, wanted.kind, wanted.clock, content, wanted.source)
            self._feed(number, issue)

    def _feed(self, number: int, event: Event) -> None:
        self._sessions[number], actions = handle(self._sessions[number], event, time.monotonic())
        for action in actions:
            match action:
                case Transmit(server, request, content):
                    tensors = content if isinstance(content, dict) else {}
                    parcel = Parcel(self._name, number, request, tensors, {})
                    self._links.send(server, self._addresses.get(server), parcel)
                case Finish(request, reply, content):
                    assert isinstance(content, tuple)
                    answer = Answer(reply, *content)
                    self._pending.pop((number, request)).answer(number, answer)
                case Void(request):
                    self._pending.pop((number, request)).fail(WorkersChangedError(_CHANGED))


def first_clock(answers: Sequence[Answer]) -> int:
    """The step to go on with, from the answers to a join: the earliest that a range lacks.

    Raises:
        WorkersChangedError: the ranges have answered for different workers; join once more.
    """
    replies = [answer.reply for answer in answers if isinstance(answer.reply, Joined)]
    if len({reply.roster for reply in replies}) > 1:
        raise WorkersChangedError(_CHANGED)
    return min(reply.clock for reply in replies)
