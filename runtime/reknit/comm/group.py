"""The process group of one generation: rendezvous, collectives, the end."""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from reknit.comm.severing import Severing
from reknit.comm.sockets import fingerprint
from reknit.protocol.ranks import Assign

TIMEOUT: Final = timedelta(minutes=30)
"""The last resort: a dead rank resets its connections, and agents end the ranks that hang."""


_BUCKET_BYTES: Final = 32 << 20
_MAX_LISTENERS: Final = 32
"""Of one rank; more of them only make `settle` less exact."""


class RankGroup:
    """All ranks of a generation, as one of them sees it.

    Joining blocks until every rank has joined. Rendezvous happens in a store that belongs to the
    generation alone; its keys carry the generation all the same.

    Args:
        assign: this rank's place.
        store_listener: on the rank that hosts the store, the bound and listening socket of
            `assign.store`; it is taken over.
        device: where the tensors live; decides between gloo and NCCL.
        severing: made before the first connection of the generation, so that it can be broken off
            from another thread while this one still waits for the others here.
    """

    def __init__(
        self,
        assign: Assign,
        *,
        device: torch.device,
        store_listener: socket.socket | None = None,
        severing: Severing | None = None,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        self.generation = assign.generation
        self.nodes = assign.nodes
        self.hosts = assign.hosts
        self._severing = severing or Severing(device)
        self._store_address = (assign.store.host, assign.store.port)
        self.rank = assign.rank
        self.world_size = assign.world_size
        self.device = device
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

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """What each rank gave, by rank: (world size, *shape of `tensor`); on the CPU."""
        if self.world_size == 1:
            return tensor.unsqueeze(0)
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def gather_texts(self, text: str) -> list[str]:
        """What each rank gave, by rank."""
        data = torch.frombuffer(bytearray(text.encode()) or bytearray(1), dtype=torch.uint8)
        sizes = self.gather(torch.tensor([len(text.encode())])).flatten().tolist()
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        padded[: len(data)] = data
        rows = self.gather(padded)
        return [bytes(row[:size].tolist()).decode() for row, size in zip(rows, sizes, strict=True)]

    def exchange(
        self, sent: Iterable[tuple[torch.Tensor, int]], received: Iterable[tuple[torch.Tensor, int]]
    ) -> list[dist.Work]:
        """Begins to send and to receive contiguous tensors, each to or from a rank.

        Two ranks that send to each other need not agree on an order, with NCCL either.
        """
        operations = [dist.P2POp(dist.isend, _as_bytes(tensor), rank) for tensor, rank in sent]
        operations += [dist.P2POp(dist.irecv, _as_bytes(tensor), rank) for tensor, rank in received]
        return dist.batch_isend_irecv(operations) if operations else []

    def barrier(self) -> None:
        """Waits until every rank has come here."""
        if self.world_size > 1:
            dist.barrier()

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over the ranks, the same bits on each; in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Gives every rank the values that rank 0 has; in place, small tensors in one transfer."""
        if self.world_size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            # Gloo does not know all number formats; bytes are bytes.
            dist.broadcast(flat.view(torch.uint8), src=0)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.detach().copy_(part.view(tensor.shape))

    def share_text(self, key: str, text: str | None) -> str:
        """Gives every rank the text that rank 0 has; the others pass None."""
        if self.rank == 0:
            assert text is not None
            self.store.set(key, text)
            return text
        return self.store.get(key).decode()

    def close(self) -> None:
        """Leaves; the other ranks may still be using the group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def abandon(self) -> None:
        """Leaves a generation that was broken off; what still refers to its groups is useless."""
        self._severing.sever()
        abandon_groups()


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


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors of one number format together, up to some size."""
    open_buckets: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        bucket = open_buckets.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(member.nbytes for member in bucket) >= _BUCKET_BYTES:
            yield open_buckets.pop(tensor.dtype)
    yield from open_buckets.values()


def rank_device(local_rank: int) -> torch.device:
    """The GPU of this rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
