"""The agent's end of a rank's channel: one JSON message per line on a socket pair."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError

from reknit.protocol.ranks import FROM_RANK, FromRank, ToRank


class RankChannel:
    """Reads what a rank says as it comes, and all that is left of it when the rank has ended.

    Reads by itself instead of through a stream: when the end of a process is known, everything it
    said lies in the socket's buffer, and must be taken from there before the end is dealt with.
    """

    def __init__(
        self,
        connection: socket.socket,
        hear: Callable[[FromRank], None],
        complain: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._hear = hear
        self._complain = complain
        self._rest = b""
        self._is_open = True
        connection.setblocking(False)
        asyncio.get_running_loop().add_reader(connection, self._read)

    def tell(self, message: ToRank, descriptor: socket.socket | None = None) -> None:
        """Sends a message; nobody hears it when the rank is gone.

        A rank gets a handful of short messages in each generation: they fit into the socket's
        buffer even if it reads none of them, and one that does not read is soon given up.

        Args:
            message: what the rank is to do.
            descriptor: an open socket that the rank gets along with the message's first byte.
        """
        if self._is_open:
            line = message.model_dump_json().encode() + b"\n"
            descriptors = [] if descriptor is None else [descriptor.fileno()]
            with suppress(BrokenPipeError, ConnectionResetError):
                num_sent = socket.send_fds(self._connection, [line], descriptors)
                self._connection.sendall(line[num_sent:])

    def drain(self) -> None:
        """Hears everything that a rank, now gone, has said, and closes."""
        self._read()
        self.close()

    def close(self) -> None:
        """Stops listening."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()

    def _read(self) -> None:
        while self._is_open:
            try:
                data = self._connection.recv(1 << 16)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self.close()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._hear_line(line)

    def _hear_line(self, line: bytes) -> None:
        try:
            message = FROM_RANK.validate_json(line)
        except ValidationError as error:
            self._complain(f"a rank said something unintelligible: {error.errors()[0]['msg']}")
            return
        self._hear(message)
