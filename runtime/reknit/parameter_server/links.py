"""Outgoing connections, one DEALER socket per server. Used by one thread."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import zmq

from reknit.parameter_server.frames import BadMessageError, Parcel, decode, encode, num_bytes

_Socket: TypeAlias = "zmq.Socket[bytes]"


class Links:
    """Connects to a server when something is said to it for the first time.

    What a connection cannot take at once is dropped; whoever needs it says it again.

    Args:
        token: the job's secret.
        max_frame_bytes: a server that sends a larger tensor is disconnected.
    """

    def __init__(self, token: str, max_frame_bytes: int) -> None:
        self.poller = zmq.Poller()
        self.counts: Counter[str] = Counter()
        self._token, self._max_frame_bytes = token, max_frame_bytes
        self._context: zmq.Context[_Socket] = zmq.Context()
        self._sockets: dict[str, tuple[str, _Socket]] = {}

    def send(self, server: str, address: str | None, parcel: Parcel) -> None:
        """Sends to the server at host:port; without an address there is nobody to send to."""
        if address is None:
            return
        link = self._sockets.get(server)
        if link is None:
            connection = self._context.socket(zmq.DEALER)
            connection.set(zmq.MAXMSGSIZE, self._max_frame_bytes)
            connection.connect(f"tcp://{address}")
            self.poller.register(connection, zmq.POLLIN)
            link = self._sockets[server] = (address, connection)
        frames = encode(parcel, self._token)
        with suppress(zmq.Again):
            link[1].send_multipart(frames, flags=zmq.NOBLOCK, copy=False)
            self.counts["sent_bytes"] += num_bytes(frames)

    def poll(self, seconds: float | None) -> dict[Any, int]:
        """Waits for something to read; what can be read."""
        return dict(self.poller.poll(None if seconds is None else int(1000 * seconds)))

    def receive(self, ready: Collection[Any]) -> Iterator[tuple[str, Parcel]]:
        """The messages of the connections that are ready, with the names of their servers."""
        for server, (_, connection) in tuple(self._sockets.items()):
            if connection not in ready:
                continue
            with suppress(zmq.Again):
                while True:
                    parts = connection.recv_multipart(zmq.NOBLOCK, copy=False)
                    frames = [frame.buffer for frame in parts]
                    self.counts["received_bytes"] += num_bytes(frames)
                    try:
                        yield server, decode(frames, self._token)
                    except BadMessageError:
                        self.counts["bad_messages"] += 1

    def keep(self, servers: Collection[str]) -> None:
        """Ends the connections to all others."""
        for server in self._sockets.keys() - set(servers):
            _, connection = self._sockets.pop(server)
            self.poller.unregister(connection)
            connection.close(linger=0)

    def close(self) -> None:
        """Ends all connections; what was not sent is lost."""
        self.keep(())
        self._context.term()
