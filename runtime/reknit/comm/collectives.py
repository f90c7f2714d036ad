"""Collective operations among some ranks of a generation."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import torch
import torch.distributed as dist

_BUCKET_BYTES: Final = 32 << 20


class Collectives:
    """Some ranks, which call these in the same order.

    Args:
        rank: this one's index among them.
        ranks: all of them, by their ranks in the world; alone a rank communicates with nobody.
        device: where the tensors live.
        handle: torch's process group; None for that of all ranks.
    """

    def __init__(
        self,
        rank: int,
        ranks: Sequence[int],
        device: torch.device,
        handle: dist.ProcessGroup | None = None,
    ) -> None:
        self.rank = rank
        self.ranks = tuple(ranks)
        self.world_size = len(ranks)
        self.device = device
        self._handle = handle

    @property
    def handle(self) -> dist.ProcessGroup:
        """The process group of torch, for libraries; where there is more than one rank."""
        handle = self._handle or dist.group.WORLD
        assert handle is not None, "there is no process group"
        return handle

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """What each rank gave, by rank: (world size, *shape of `tensor`); on the CPU."""
        if self.world_size == 1:
            return tensor.unsqueeze(0)
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor, group=self._handle)
        return torch.stack(parts)

    def gather_texts(self, text: str) -> list[str]:
        """What each rank gave, by rank."""
        data = torch.frombuffer(bytearray(text.encode()) or bytearray(1), dtype=torch.uint8)
        sizes = self.gather(torch.tensor([len(text.encode())])).flatten().tolist()
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        padded[: len(data)] = data
        rows = self.gather(padded)
        return [bytes(row[:size].tolist()).decode() for row, size in zip(rows, sizes, strict=True)]

    def barrier(self) -> None:
        """Waits until every rank has come here."""
        if self.world_size > 1:
            dist.barrier(group=self._handle)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over the ranks, the same bits on each; in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self._handle)
        return tensor

    def broadcast(self, tensors: Iterable[torch.Tensor], source: int = 0) -> None:
        """Gives every rank the values that one has; in place, small tensors in one transfer."""
        if self.world_size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            dist.broadcast(as_bytes(flat), group=self._handle, group_src=source)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.detach().copy_(part.view(tensor.shape))

    def send(self, tensor: torch.Tensor, rank: int, tag: int) -> dist.Work:
        """Begins to send a contiguous tensor, which must not change until that is done."""
        work = dist.isend(as_bytes(tensor), group=self._handle, tag=tag, group_dst=rank)
        assert work is not None, "this rank is one of them"
        return work

    def receive(self, tensor: torch.Tensor, rank: int, tag: int) -> None:
        """Waits for a tensor that the other one sends with this tag; into a contiguous one."""
        dist.recv(as_bytes(tensor), group=self._handle, tag=tag, group_src=rank)

    def end(self) -> None:
        """Lets go of torch's process group, whose connections live as long as it is referred to."""
        self._handle = None


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of a contiguous tensor, as gloo does not know all number formats."""
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
