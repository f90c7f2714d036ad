"""The process that holds copies of ranges: state machines, tensors and sockets put together.

Every server listens on a ROUTER socket. Workers are answered through it; to another server it
speaks through a DEALER socket of its own. What a socket cannot take at once is dropped: the state
machines on both sides repeat what matters.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import torch
import zmq
import zmq.asyncio

from reknit.parameter_server.frames import BadMessageError, Parcel, decode, encode, num_bytes
from reknit.parameter_server.links import Links
from reknit.parameter_server.machine import handle
from reknit.parameter_server.messages import (
    Described,
    Kind,
    Pulled,
    Reason,
    Refused,
    Reply,
    Request,
    Snapshot,
)
from reknit.parameter_server.packing import pack, unpack
from reknit.parameter_server.state import (
    Apply,
    Event,
    Heard,
    Install,
    Leased,
    RangeState,
    Received,
    Restore,
    Send,
    Tell,
    Tick,
    Viewed,
)
from reknit.parameter_server.status import Status, status
from reknit.parameter_server.table import Pushed, Restored
from reknit.parameter_server.tensors import RangeTensors
from reknit.parameter_server.views import View
from reknit.protocol.base import Json

log = logging.getLogger(__name__)

TICK: Final = 0.05
_LINGER_MS: Final = 200
"""At the end, for answers that are on their way out."""
Observe = Callable[[int, Pushed], None]
"""observe(range, push): a push counts in the tensors of this copy from now on."""
Replace = Callable[[RangeTensors, Restored], None]
"""replace(tensors, entry): takes up the version that the entry names."""


@dataclass(slots=True)
class _Copy:
    state: RangeState
    tensors: RangeTensors


class Server:
    """`start`, then `hold` and `see` at any time, `run` until cancelled, `close`.

    Everything but the construction happens in one event loop.

    Args:
        name: of this process; never used by another one.
        token: the job's secret.
        max_frame_bytes: a peer that sends a larger tensor is disconnected.
        observe: is told of every push that is applied.
        restore: reads what a range restores; without it no worker may ask for that.
    """

    def __init__(
        self,
        name: str,
        *,
        token: str,
        max_frame_bytes: int,
        observe: Observe | None = None,
        restore: Replace | None = None,
    ) -> None:
        self.name = name
        self._token, self._observe, self._restore = token, observe, restore
        self._copies: dict[int, _Copy] = {}
        self._context = zmq.asyncio.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.set(zmq.MAXMSGSIZE, max_frame_bytes)
        # A worker that connects again takes over from its own half-dead connection.
        self._router.set(zmq.ROUTER_HANDOVER, 1)
        self._peers = Links(token, max_frame_bytes)
        self._addresses: dict[str, str] = {}
        self._identities: dict[tuple[int, int], bytes] = {}
        self._counts: defaultdict[str, float] = defaultdict(float)

    @staticmethod
    def clock() -> float:
        """The seconds in which leases are counted."""
        return time.monotonic()

    def start(self, host: str, port: int = 0) -> int:
        """Listens; returns the port.

        Raises:
            zmq.ZMQError: the address cannot be listened on.
        """
        self._router.bind(f"tcp://{host}:{port or '*'}")
        endpoint: Any = self._router.get(zmq.LAST_ENDPOINT)
        return int(endpoint.decode().rpartition(":")[2])

    def hold(self, number: int, state: RangeState, tensors: RangeTensors) -> None:
        """Takes up a copy of a range, complete or to be filled."""
        self._copies[number] = _Copy(state, tensors)

    @property
    def numbers(self) -> frozenset[int]:
        """The ranges of which this server has a copy, complete or not."""
        return frozenset(self._copies)

    def drop(self, number: int) -> None:
        """Gives up a copy that no view names any more."""
        del self._copies[number]

    def see(self, number: int, view: View, addresses: Mapping[str, str]) -> None:
        """The coordinator has published a view of a range that this server holds.

        Args:
            number: the range.
            view: may be one that is known already.
            addresses: host:port of servers, by name.
        """
        self._addresses |= addresses
        self._feed(number, Viewed(view))
        needed = {
            name
            for copy in self._copies.values()
            if copy.state.view is not None
            for name in (copy.state.view.primary, copy.state.view.backup)
        }
        self._peers.keep({name for name in needed if name is not None})

    def renew(self, number: int, view_number: int, until: float) -> None:
        """The coordinator will appoint no other primary before `until`, by `clock`.

        It has to be counted from before the coordinator was asked.
        """
        self._feed(number, Leased(view_number, until))

    def status(self, number: int) -> Status:
        """What there is to say about a copy."""
        return status(self._copies[number].state, self.clock())

    def metrics(self) -> dict[str, float]:
        """Counts since the start: messages, bytes, updates and the seconds that they took."""
        return {**self._counts, "replicated_bytes": self._peers.counts["sent_bytes"]}

    async def run(self) -> None:
        """Serves until it is cancelled."""
        ticking = asyncio.create_task(self._tick())
        try:
            while not ticking.done():
                frames = await self._router.recv_multipart(copy=False)
                self._receive(bytes(frames[0].buffer), [frame.buffer for frame in frames[1:]])
                # Else views and leases would wait for as long as there are messages.
                await asyncio.sleep(0)
            ticking.result()
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking

    def close(self) -> None:
        """Ends all connections; what was said last still goes out."""
        self._peers.close()
        self._router.close(linger=_LINGER_MS)
        self._context.term()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for number in tuple(self._copies):
                self._feed(number, Tick())

    def _receive(self, identity: bytes, frames: list[memoryview]) -> None:
        self._counts["received_bytes"] += num_bytes(frames)
        try:
            parcel = decode(frames, self._token)
        except BadMessageError as error:
            self._counts["bad_messages"] += 1
            log.warning("A message was dropped: %s.", error)
            return
        message, number = parcel.message, parcel.number
        if number not in self._copies:
            self._counts["bad_messages"] += 1
        elif isinstance(message, Request):
            self._request(identity, parcel, message)
        elif not isinstance(message, Reply):
            self._feed(number, Heard(unpack(message, parcel.tensors), parcel))

    def _request(self, identity: bytes, parcel: Parcel, request: Request) -> None:
        self._counts[f"{request.kind}_requests"] += 1
        self._identities[request.worker, request.incarnation] = identity
        tensors = self._copies[parcel.number].tensors
        problem = None
        if request.kind is Kind.RESTORE and self._restore is None:
            problem = "nothing can be restored here"
        if request.kind in (Kind.PUSH, Kind.PULL):
            problem = tensors.misfit(parcel.tensors, is_gradient=request.kind is Kind.PUSH)
        if problem is None:
            self._feed(parcel.number, Received(request, parcel.tensors))
        else:
            log.warning("A %s of worker %d was refused: %s.", request.kind, request.worker, problem)
            refused = Refused(request.request, Reason.INVALID)
            self._do(parcel.number, Tell(request.worker, request.incarnation, refused))

    def _feed(self, number: int, event: Event) -> None:
        copy = self._copies[number]
        copy.state, actions = handle(copy.state, event, self.clock())
        for action in actions:
            self._do(number, action)

    def _do(self, number: int, action: Apply | Install | Restore | Send | Tell) -> None:
        copy = self._copies[number]
        match action:
            case Apply(update):
                start = time.perf_counter()
                copy.tensors.apply([_content(push.payload) for push in update.pushes])
                self._counts["update_seconds"] += time.perf_counter() - start
                self._counts["updates"] += 1
                if self._observe is not None:
                    for push in update.pushes:
                        self._observe(number, push)
            case Install(_, parcel):
                assert isinstance(parcel, Parcel)
                copy.tensors.install(parcel.tensors, parcel.scalars)
            case Restore(entry):
                assert self._restore is not None
                self._restore(copy.tensors, entry)
            case Send():
                self._send(number, copy, action)
            case Tell():
                self._tell(number, copy, action)

    def _send(self, number: int, copy: _Copy, action: Send) -> None:
        tensors: dict[str, torch.Tensor] = {}
        scalars: dict[str, Json] = {}
        if isinstance(action.message, Snapshot):
            tensors, scalars = copy.tensors.snapshot()
        message, tensors = pack(action.message, tensors)
        parcel = Parcel(self.name, number, message, tensors, scalars)
        self._peers.send(action.server, self._addresses.get(action.server), parcel)

    def _tell(self, number: int, copy: _Copy, action: Tell) -> None:
        reply = action.reply
        tensors: dict[str, torch.Tensor] = {}
        if isinstance(reply, Refused):
            self._counts["refusals"] += 1
        elif not copy.state.serves(self.clock()):
            # The lease has run out over the update. The worker will ask again.
            return
        if isinstance(reply, Pulled):
            is_previous = copy.state.mode.is_synchronous
            is_previous = is_previous and reply.version < copy.state.applied.version
            tensors = copy.tensors.weights(_content(action.content), previous=is_previous)
        scalars: dict[str, Json] = {}
        if isinstance(reply, Described):
            tensors, scalars = copy.tensors.describe(whole=bool(_content(action.content)))
        frames = encode(Parcel(self.name, number, reply, tensors, scalars), self._token)
        identity = self._identities.get((action.worker, action.incarnation))
        if identity is not None:
            self._counts["sent_bytes"] += num_bytes(frames)
            self._router.send_multipart([identity, *frames], copy=False)


def _content(content: object) -> dict[str, Any]:
    assert isinstance(content, dict)
    return content
