"""The arithmetic of flat partitions: which elements of which tensor lie where. Without torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Elements start <= i < stop of a flattened tensor."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"no interval: {self.start}..{self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def intersect(self, other: "Interval") -> "Interval | None":
        """The common elements; None when there are none."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return Interval(start, stop) if start < stop else None


def even_intervals(num_elements: int, num_parts: int) -> Iterator[Interval]:
    """Cuts a flat tensor into `num_parts` intervals whose lengths differ by at most one."""
    base, extra = divmod(num_elements, num_parts)
    start = 0
    for part in range(num_parts):
        stop = start + base + (1 if part < extra else 0)
        yield Interval(start, stop)
        start = stop


@dataclass(frozen=True, slots=True)
class Placed:
    """Elements of one tensor within a flat buffer."""

    index: int
    """The tensor, by its place in the list that was asked about."""
    interval: Interval
    """The elements, in the tensor."""
    offset: int
    """Where the first of them lies in the buffer."""


def contiguous_partition(
    offsets: Sequence[int], sizes: Sequence[int], partition: Interval
) -> Iterator[Placed]:
    """What of each tensor lies in one partition of a flat buffer that holds them one by one.

    Gaps between and after the tensors are padding. This is how DeepSpeed's ZeRO 1 and 2 lay out
    a parameter group: flat, and cut into partitions of equal size regardless of tensors.

    Args:
        offsets: where each tensor begins in the whole buffer.
        sizes: the tensors' numbers of elements.
        partition: the part of the buffer that is held; offsets in the result count from its start.
    """
    for index, (start, size) in enumerate(zip(offsets, sizes, strict=True)):
        common = Interval(start, start + size).intersect(partition)
        if common is not None:
            interval = Interval(common.start - start, common.stop - start)
            yield Placed(index, interval, common.start - partition.start)


def per_tensor_partition(sizes: Sequence[int], num_parts: int, part: int) -> Iterator[Placed]:
    """What of each tensor lies in one rank's buffer if each tensor is cut on its own.

    Each tensor is padded until `num_parts` divides it and cut evenly; a rank's buffer holds its
    cuts one by one. This is how DeepSpeed's ZeRO 3 lays out a sub-group.
    """
    lengths = [-(-size // num_parts) for size in sizes]
    offsets = [0, *accumulate(lengths)]
    for index, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        start, stop = min(part * length, size), min((part + 1) * length, size)
        if start < stop:
            yield Placed(index, Interval(start, stop), offsets[index])


def by_rows(shapes: Sequence[Sequence[int]], num_parts: int, part: int) -> Iterator[Placed]:
    """What of each tensor lies in one rank's buffer if each is cut along its first dimension.

    As `torch.chunk` cuts: all parts but the last ones have equally many rows, and a rank's buffer
    has room for as many in each tensor. This is how torch's FSDP2 divides a parameter.
    """
    offset = 0
    for index, (num_rows, *others) in enumerate(shapes):
        width = prod(others)
        length = -(-num_rows // num_parts)
        start, stop = min(part * length, num_rows), min((part + 1) * length, num_rows)
        if start < stop and width:
            yield Placed(index, Interval(start * width, stop * width), offset)
        offset += length * width


def along(
    shape: Sequence[int], dimension: int, num_parts: int, part: int, *, blocks: int = 1
) -> Iterator[Interval]:
    """What one rank holds of a tensor that is cut along any dimension, in order.

    Args:
        shape: of the whole tensor.
        dimension: the one that is cut.
        num_parts: ranks.
        part: the rank.
        blocks: equal runs along the dimension that are cut each by itself.

    Raises:
        ValueError: the dimension cannot be cut into so many blocks and parts.
    """
    length, rest = divmod(shape[dimension], blocks * num_parts)
    if rest:
        raise ValueError(f"{shape[dimension]} is no multiple of {blocks} x {num_parts}")
    length *= prod(shape[dimension + 1 :])
    if length:
        for run in range(prod(shape[:dimension]) * blocks):
            start = (run * num_parts + part) * length
            yield Interval(start, start + length)


def one_by_one(intervals: Iterable[Interval]) -> Iterator[Placed]:
    """Intervals of one tensor as a flat buffer holds them without gaps."""
    offset = 0
    for interval in intervals:
        yield Placed(0, interval, offset)
        offset += len(interval)
