"""The arithmetic of flat partitions: which elements of which tensor lie where."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from reknit.state.description import Interval, Piece, even_intervals


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


def share(pieces: Iterable[Piece], num_ranks: int, rank: int) -> Iterator[Piece]:
    """The part of `pieces`, which every rank holds alike, that `rank` writes.

    Over all ranks each element comes exactly once, and all ranks get about as many.
    """
    pieces = list(pieces)
    own = list(even_intervals(sum(len(piece.interval) for piece in pieces), num_ranks))[rank]
    start = 0
    for piece in pieces:
        common = Interval(start, start + len(piece.interval)).intersect(own)
        if common is not None:
            first, last = common.start - start, common.stop - start
            interval = Interval(piece.interval.start + first, piece.interval.start + last)
            yield Piece(piece.name, interval, piece.data[first:last])
        start += len(piece.interval)
