"""Which TCP sockets of this process belong to a process group, and breaking them off. Linux only.

Gloo offers no way to end a collective that waits for a peer which has stopped: its `abort` frees
nobody (pytorch issue 130345). Shutting down the connected sockets does, within milliseconds. A
listening socket must be left alone: gloo's accepting thread would end the process.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final, TypeAlias

Address: TypeAlias = tuple[str, int]

_SOCKETS: Final = Path("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class Socket:
    """A TCP socket of this process."""

    descriptor: int
    inode: str
    """Names the socket as long as it lives; descriptors are used again."""
    local: Address
    peer: Address | None
    """None while it is not connected."""
    is_listening: bool


def tcp_sockets() -> Iterator[Socket]:
    """All TCP sockets that are open now."""
    for entry in _SOCKETS.iterdir():
        with suppress(OSError):
            inode = str(entry.readlink())
            if inode.startswith("socket:"):
                found = _inspect(int(entry.name), inode)
                if found is not None:
                    yield found


def _inspect(descriptor: int, inode: str) -> Socket | None:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if copy.type != socket.SOCK_STREAM:
            return None
        peer = None
        with suppress(OSError):
            peer = _plain(copy.getpeername())
        is_listening = bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        return Socket(descriptor, inode, _plain(copy.getsockname()), peer, is_listening)


def break_off(found: Socket) -> bool:
    """Ends both directions of a connection, unless the descriptor has become another socket's.

    The descriptor stays open: it is closed by whoever has opened it.
    """
    with suppress(OSError):
        copied = os.dup(found.descriptor)
        with socket.socket(fileno=copied) as copy:
            if str((_SOCKETS / str(copied)).readlink()) == found.inode:
                copy.shutdown(socket.SHUT_RDWR)
                return True
    return False


def fingerprint(address: Address) -> int:
    """A number that stands for an address when ranks tell each other theirs."""
    digest = blake2b(f"{address[0]} {address[1]}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _plain(name: tuple[object, ...]) -> Address:
    """Host and port; an IPv4 address that is mapped into IPv6 as such."""
    host, port = str(name[0]).partition("%")[0], int(str(name[1]))
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), port
