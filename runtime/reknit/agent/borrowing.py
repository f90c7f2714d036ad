"""Taking a process from a nursery (see `nursery`), in the place of starting an interpreter."""

import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from reknit.agent import wire
from reknit.protocol.base import Message


class Program(StrEnum):
    """What a nursery's child becomes."""

    FORKSERVER = "forkserver"
    INSPECTION = "inspection"


class Order(Message):
    """To the nursery: fork. Comes with standard output, standard error and a socket, if need be."""

    program: Program
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    """The whole of it."""
    folder: str


class Born(Message):
    """From the nursery: the process exists."""

    kind: Literal["born"] = "born"
    pid: int


class Gone(Message):
    """From the nursery: the process has ended, and is waited for."""

    kind: Literal["gone"] = "gone"
    status: int
    """Exit status, or the signal's number negated."""


class Declined(Message):
    """From the nursery: its children could not be trusted."""

    kind: Literal["declined"] = "declined"
    reason: str


Answer: TypeAlias = Annotated[Born | Gone | Declined, Field(discriminator="kind")]
ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


class Borrowed:
    """A process of the nursery's, for whoever asked for it.

    Args:
        connection: to the nursery, which tells of the end there.
        pid: of the process.
    """

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.connection = connection
        self._status: int | None = None
        # None if it has ended already; its number may belong to another process by then.
        self._descriptor: int | None = None
        with suppress(ProcessLookupError):
            self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """SIGKILL; nothing happens if the process has ended."""
        if self._descriptor is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self) -> int:
        """Waits for the end; the exit status, or the signal's number negated.

        -9 if the nursery has died meanwhile: nobody knows.
        """
        if self._status is None:
            packet, _ = wire.receive(self.connection)
            answer = ANSWER.validate_json(packet) if packet else None
            if answer is None and self._descriptor is not None:
                select.select([self._descriptor], [], [])
            self._status = answer.status if isinstance(answer, Gone) else -signal.SIGKILL
            self.connection.close()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        return self._status


def borrow(
    nursery: str,
    program: Program,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    descriptors: Sequence[int],
) -> Borrowed | None:
    """A process that begins in the present folder; None if the nursery cannot give one.

    Args:
        nursery: path of its socket; it answers once it is warm.
        program: what the process runs.
        arguments: of the program.
        environment: the process's own.
        descriptors: standard output, standard error, and what else the program takes.
    """
    order = Order(
        program=program,
        arguments=tuple(arguments),
        environment=dict(environment),
        folder=str(Path.cwd()),
    )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(nursery)
        wire.send(connection, order, descriptors)
        packet, _ = wire.receive(connection)
    except OSError:
        packet = b""
    answer = ANSWER.validate_json(packet) if packet else None
    if not isinstance(answer, Born):
        connection.close()
        return None
    return Borrowed(connection, answer.pid)
