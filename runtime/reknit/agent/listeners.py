"""The address that an agent offers for the store of a coming generation.

Ranks connect as soon as they know the generation, perhaps before rank 0 has even begun to run.
So the agent binds and listens itself, and hands rank 0 the socket: early connections wait in its
backlog and are served once `TCPStore(is_master=True, master_listen_fd=...)` exists, with libuv and
without. Nobody ever finds a closed port, and no port is chosen before it is bound.

A command binds its MASTER_PORT itself. Its port is bound here until just before rank 0 starts, so
it is free then, and the other ranks retry as they do under torchrun.
"""

import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Final

from reknit.errors import ReknitError
from reknit.protocol.base import Endpoint
from reknit.protocol.settings import Framework, JobSettings

_BACKLOG: Final = 4096
COMMAND_PORTS: Final = range(12_000, 30_000)
"""Below the ports that kernels give to outgoing connections."""
_ATTEMPTS: Final = 200


@dataclass(frozen=True, slots=True)
class Offer:
    """A bound socket at an address on which nobody else can listen."""

    endpoint: Endpoint
    socket: socket.socket


def open_listener(host: str) -> Offer:
    """A listening socket at a fresh port.

    Raises:
        OSError: `host` is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind((host, 0))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return Offer(Endpoint(host=host, port=listener.getsockname()[1]), listener)


def reserve_ports(host: str, num_ports: int, random: Random) -> Offer:
    """Binds the first of `num_ports` free consecutive ports of all addresses, without listening.

    Programs bind to every address of the machine, so the ports must be free on all of them.

    Raises:
        ReknitError: no such block was found.
    """
    for _ in range(_ATTEMPTS):
        first = random.choice(COMMAND_PORTS[: len(COMMAND_PORTS) - num_ports])
        bound = _bind(range(first, first + num_ports))
        if bound is not None:
            return Offer(Endpoint(host=host, port=first), bound)
    raise ReknitError(f"no {num_ports} consecutive ports are free")


def num_command_ports(settings: JobSettings) -> int:
    """Ports that a command's ranks listen on at addresses known beforehand."""
    return settings.world_size if settings.framework is Framework.TENSORFLOW else 1


def _bind(ports: Iterable[int]) -> socket.socket | None:
    """The socket of the first port when all are free; None when one is not."""
    with ExitStack() as stack:
        sockets = []
        for port in ports:
            bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                bound.bind(("", port))
            except OSError:
                return None
            sockets.append(bound)
        return sockets[0].dup()
