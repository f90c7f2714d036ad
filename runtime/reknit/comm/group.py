"""The process group of one generation: rendezvous, collectives, the end."""

import os
import socket
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from reknit.protocol.ranks import Assign

TIMEOUT: Final = timedelta(minutes=30)
"""The last resort: a dead rank resets its connections, and agents end the ranks that hang."""


_BUCKET_BYTES: Final = 32 << 20


class RankGroup:
    """All ranks of a generation, as one of them sees it.

    Joining blocks until every rank has joined. Rendezvous happens in a store that belongs to the
    generation alone; its keys carry the generation all the same.

    Args:
        assign: this rank's place.
        store_listener: on the rank that hosts the store, the bound and listening socket of
            `assign.store`; it is taken over.
        device: where the tensors live; decides between gloo and NCCL.
    """

    def __init__(
        self,
        assign: Assign,
        *,
        device: torch.device,
        store_listener: socket.socket | None = None,
        timeout: timedelta = TIMEOUT,
    ) -> None:
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
