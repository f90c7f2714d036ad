"""The process group of one generation: rendezvous, collectives, the end."""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from reknit.comm.collectives import Collectives, as_bytes
from reknit.comm.severing import Severing
from reknit.comm.sockets import fingerprint
from reknit.layout import Degrees
from reknit.mesh import Axis, Mesh
from reknit.protocol.ranks import Assign

TIMEOUT: Final = timedelta(minutes=30)
"""The last resort: a dead rank resets its connections, and agents end the ranks that hang."""

_MAX_LISTENERS: Final = 32
"""Of one rank; more of them only make `settle` less exact."""


class RankGroup(Collectives):
    """All ranks of a generation, as one of them sees it.

    Joining blocks until every rank has joined. Rendezvous happens in a store that belongs to the
    generation alone; its keys carry the generation all the same.

    Args:
        assign: this rank's place.
        store_listener: on the rank that hosts the store, the bound and listening socket of
            `assign.store`; it is taken over.
        device: where the tensors live; decides between gloo and NCCL.
        degrees: how the axes of parallelism divide the world.
        severing: made before the first connection of the generation, so that it can be broken off
            from another thread while this one still waits for the others here.
    """

    def __init__(
        self,
        assign: Assign,
        *,
        device: torch.device,
        degrees: Degrees | None = None,
        store_listener: socket.socket | None = None,
        severing: Severing | None = None,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        super().__init__(assign.rank, range(assign.world_size), device)
        self.mesh = Mesh.of(degrees or Degrees(), assign.world_size)
        self.place = self.mesh.coordinates(assign.rank)
        self.generation = assign.generation
        self.nodes = assign.nodes
        self.hosts = assign.hosts
        self._severing = severing or Severing(device)
        self._store_address = (assign.store.host, assign.store.port)
        os.environ.update(environment(assign))
        base = TCPStore(
            assign.store.host,
            assign.store.port,
            is_master=store_listener is not None,
            wait_for_workers=False,
            timeout=timeout,
            master_listen_fd=None if store_listener is None else store_listener.detach(),
        )
        self.store = PrefixStore(f"generation-{assign.generation}", base)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=self.store,
            rank=assign.rank,
            world_size=assign.world_size,
            timeout=timeout,
        )
        # Gloo may connect at the first use, and does not time out on a peer that dies before.
        dist.barrier()
        self._axes: dict[Axis, Collectives] = {}
        for axis in Axis:
            self._axes[axis] = self._new_axis(self.mesh.along(axis, self.rank))

    @property
    def speaks(self) -> bool:
        """Whether this rank's loss and samples count, not another's that computes on the same."""
        return self.mesh.speaks(self.rank)

    def along(self, axis: Axis) -> Collectives:
        """The ranks along one axis of the mesh that this one is among."""
        return self._axes[axis]

    def _new_axis(self, ranks: tuple[int, ...]) -> Collectives:
        # Connections serve every axis that has the same ranks; those of all ranks are there.
        known = next((axis for axis in self._axes.values() if axis.ranks == ranks), None)
        if known is not None:
            return known
        handle: dist.ProcessGroup | None = None
        if 1 < len(ranks) < self.world_size:
            made = dist.new_group(list(ranks), timeout=TIMEOUT, use_local_synchronization=True)
            assert isinstance(made, dist.ProcessGroup)
            handle = made
            dist.barrier(group=handle)
        return Collectives(ranks.index(self.rank), ranks, self.device, handle)

    def settle(self) -> None:
        """Ends the setting up: the ranks tell each other where their groups listen.

        To be called by all ranks once everything that makes process groups has done so.
        """
        own = self._severing.gloo.listening()[:_MAX_LISTENERS]
        told = torch.zeros(_MAX_LISTENERS, dtype=torch.int64)
        told[: len(own)] = torch.tensor(own, dtype=torch.int64)
        everyone = self.gather(told)
        known = {fingerprint(self._store_address), *everyone.flatten().tolist()} - {0}
        self._severing.gloo.settle(frozenset(known))

    def exchange(
        self, sent: Iterable[tuple[torch.Tensor, int]], received: Iterable[tuple[torch.Tensor, int]]
    ) -> list[dist.Work]:
        """Begins to send and to receive contiguous tensors, each to or from a rank.

        Two ranks that send to each other need not agree on an order, with NCCL either.
        """
        operations = [dist.P2POp(dist.isend, as_bytes(tensor), rank) for tensor, rank in sent]
        operations += [dist.P2POp(dist.irecv, as_bytes(tensor), rank) for tensor, rank in received]
        return dist.batch_isend_irecv(operations) if operations else []

    def share_text(self, key: str, text: str | None) -> str:
        """Gives every rank the text that rank 0 has; the others pass None."""
        if self.rank == 0:
            assert text is not None
            self.store.set(key, text)
            return text
        return self.store.get(key).decode()

    def close(self) -> None:
        """Leaves; the other ranks may still be using the group."""
        self._end_axes()
        if dist.is_initialized():
            dist.destroy_process_group()

    def abandon(self) -> None:
        """Leaves a generation that was broken off; what still refers to its groups is useless."""
        self._severing.sever()
        self._end_axes()
        abandon_groups()

    def _end_axes(self) -> None:
        for axis in self._axes.values():
            axis.end()


def abandon_groups() -> None:
    """Forgets every process group of this process, also one that was set up half-way."""
    with suppress(RuntimeError, ValueError):
        if dist.is_initialized():
            dist.destroy_process_group()


def environment(assign: Assign) -> dict[str, str]:
    """The variables that torchrun would set, which libraries and user code look for."""
    return {
        "RANK": str(assign.rank),
        "WORLD_SIZE": str(assign.world_size),
        "LOCAL_RANK": str(assign.local_rank),
        "LOCAL_WORLD_SIZE": str(assign.local_world_size),
        "GROUP_RANK": str(assign.group_rank),
        "MASTER_ADDR": assign.store.host,
        "MASTER_PORT": str(assign.store.port),
    }


def rank_device(local_rank: int) -> torch.device:
    """The GPU of this rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
