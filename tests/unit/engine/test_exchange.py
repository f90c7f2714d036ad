"""Small tensors are sent together, large ones alone; each arrives where it belongs."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from queue import Queue

import torch

from reknit.trainer import memory


class Received:
    def __init__(self, tensor: torch.Tensor, queue: "Queue[torch.Tensor]") -> None:
        self.tensor, self.queue = tensor, queue

    def wait(self) -> None:
        self.tensor.copy_(self.queue.get(timeout=10))


class Mail:
    """What ranks send to each other, in order."""

    def __init__(self) -> None:
        pairs = permutations(range(3), 2)
        self.queues: dict[tuple[int, int], Queue[torch.Tensor]] = {pair: Queue() for pair in pairs}

    def of(self, rank: int) -> "MailGroup":
        return MailGroup(self, rank)


class MailGroup:
    def __init__(self, mail: Mail, rank: int) -> None:
        self.mail, self.rank = mail, rank
        self.num_sent = 0

    def exchange(
        self,
        sent: Iterable[tuple[torch.Tensor, int]],
        received: Iterable[tuple[torch.Tensor, int]],
    ) -> list[Received]:
        for tensor, dest in sent:
            self.num_sent += 1
            self.mail.queues[self.rank, dest].put(tensor.clone())
        return [Received(t, self.mail.queues[source, self.rank]) for t, source in received]


def test_everything_arrives_where_it_belongs():
    sizes = [3, 50_000, 1, 0, 7, 40_000]
    kinds = [torch.float32, torch.float32, torch.int64, torch.float32, torch.bfloat16, torch.int64]
    mail = Mail()
    groups = [mail.of(rank) for rank in range(3)]

    def tensors(source: int, dest: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(10 * source + dest)
        made = [torch.randint(99, (size,), generator=generator) for size in sizes]
        return [tensor.to(kind) for tensor, kind in zip(made, kinds, strict=True)]

    def work(rank: int) -> dict[int, list[torch.Tensor]]:
        others = [other for other in range(3) if other != rank]
        received = {
            other: [torch.zeros_like(tensor) for tensor in tensors(other, rank)] for other in others
        }
        memory._exchange(groups[rank], {other: tensors(rank, other) for other in others}, received)
        return received

    with ThreadPoolExecutor(3) as pool:
        for rank, received in enumerate(pool.map(work, range(3))):
            for other, found in received.items():
                for one, expected in zip(found, tensors(other, rank), strict=True):
                    assert torch.equal(one, expected)
    # Two large ones and a pack to each of two ranks.
    assert [group.num_sent for group in groups] == [6, 6, 6]
