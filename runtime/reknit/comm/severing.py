"""Ending all waiting for other ranks of a generation, from beside the training thread."""

from collections.abc import Callable

import torch
import torch.distributed as dist

from reknit.comm.sockets import Socket, break_off, fingerprint, tcp_sockets


class GlooConnections:
    """The connections of one generation: to its store, and of all its gloo groups.

    While the generation is set up, every connection that was opened since counts as one of them.
    From `settle` on only those do that lead to an address which a member has told, or that came in
    through a listener of the groups: what the user's own code opens is left alone.
    """

    def __init__(self) -> None:
        self._before = {found.inode for found in tcp_sockets()}
        self._members: frozenset[int] | None = None
        self._listeners: frozenset[tuple[str, int]] = frozenset()

    def listening(self) -> tuple[int, ...]:
        """Fingerprints of the addresses that this rank's groups listen on."""
        self._listeners = frozenset(
            found.local
            for found in tcp_sockets()
            if found.is_listening and found.inode not in self._before
        )
        return tuple(sorted(map(fingerprint, self._listeners)))

    def settle(self, members: frozenset[int]) -> None:
        """Takes the fingerprints of all members' listeners and of the store."""
        self._members = members

    def sever(self) -> None:
        """Breaks off the connections of the generation that are open now."""
        for found in tcp_sockets():
            if self._belongs(found):
                break_off(found)

    def _belongs(self, found: Socket) -> bool:
        if found.is_listening or found.peer is None or found.inode in self._before:
            return False
        if self._members is None:
            return True
        # A listener may be bound to every address of the machine; its port tells it all the same.
        ports = {port for _, port in self._listeners}
        return fingerprint(found.peer) in self._members or found.local[1] in ports


class NcclCommunicators:
    """All NCCL communicators of the process. Aborting one alone could leave another waiting."""

    def sever(self) -> None:
        """Aborts them; kernels that wait for a peer end."""
        dist.distributed_c10d._abort_process_group()  # noqa: SLF001 - there is no public one


def once(action: Callable[[], None]) -> Callable[[], None]:
    """`action` at the first call, nothing afterwards."""
    pending = [action]

    def run() -> None:
        if pending:
            pending.pop()()

    return run


class Severing:
    """Everything that a generation's ranks can wait in."""

    def __init__(self, device: torch.device) -> None:
        self.gloo = GlooConnections()
        self._abort_nccl = once(NcclCommunicators().sever) if device.type == "cuda" else None

    def sever(self) -> None:
        """Makes waiting calls raise; to be repeated until the training thread has left."""
        self.gloo.sever()
        if self._abort_nccl is not None and dist.is_initialized():
            self._abort_nccl()
