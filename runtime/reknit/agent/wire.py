"""Between an agent and its forkserver: one JSON message per packet, with file descriptors.

The socket is a connected pair of type SOCK_SEQPACKET: packets keep their boundaries, an end of the
pair reads as empty once every copy of the other end is closed.
"""

import os
import socket
from array import array
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from reknit.protocol.base import Message
from reknit.protocol.outcome import ErrorReport

MAX_PACKET_BYTES: Final = 1 << 17
MAX_DESCRIPTORS: Final = 3


class StartProcess(Message):
    """Agent to forkserver: fork. Comes with the rank's channel.

    With `arguments` the child executes a program instead of the target and gets no descriptors.
    """

    kind: Literal["start"] = "start"
    launch: int
    title: str
    """Name of the process in process lists."""
    arguments: tuple[str, ...] | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    """Added to the inherited environment."""


class SignalProcess(Message):
    """Agent to forkserver: a signal to a process and all that it has started."""

    kind: Literal["signal"] = "signal"
    launch: int
    signal: int


class Hello(Message):
    """Forkserver to agent: preloading is over."""

    kind: Literal["hello"] = "hello"
    seconds: float
    """What preloading took."""
    obstacle: str | None = None
    """Why forking this process would be unsafe."""
    problem: ErrorReport | None = None
    """What is wrong with the user's function, its configuration or program."""


class ProcessStarted(Message):
    """Forkserver to agent: the process exists."""

    kind: Literal["started"] = "started"
    launch: int
    pid: int
    seconds: float
    """What the fork took."""


class ProcessEnded(Message):
    """Forkserver to agent: the process is gone; exactly one of code and signal is set."""

    kind: Literal["ended"] = "ended"
    launch: int
    exit_code: int | None = None
    signal: int | None = None


ToForkserver: TypeAlias = Annotated[StartProcess | SignalProcess, Field(discriminator="kind")]
FromForkserver: TypeAlias = Annotated[
    Hello | ProcessStarted | ProcessEnded, Field(discriminator="kind")
]
TO_FORKSERVER: TypeAdapter[ToForkserver] = TypeAdapter(ToForkserver)
FROM_FORKSERVER: TypeAdapter[FromForkserver] = TypeAdapter(FromForkserver)


def send(connection: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Sends one packet.

    Raises:
        OSError: the other end is gone, or the message is too large.
    """
    socket.send_fds(connection, [message.model_dump_json().encode()], list(descriptors))


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One packet with its descriptors, which programs executed later do not inherit.

    An empty packet means that the other end is gone.

    Raises:
        BlockingIOError: there is none on a non-blocking socket.
    """
    size = array("i").itemsize
    room = socket.CMSG_LEN(MAX_DESCRIPTORS * size)
    try:
        received = connection.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # Said once when the other end has gone without reading everything; what it has sent before
        # is still there.
        received = connection.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    data, ancillary, _, _ = received
    descriptors = array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % size])
    return data, list(descriptors)


def close_all(descriptors: Sequence[int]) -> None:
    """Closes descriptors that were received and are not needed."""
    for descriptor in descriptors:
        os.close(descriptor)
