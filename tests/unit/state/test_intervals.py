import torch
from hypothesis import given
from hypothesis import strategies as st

from reknit.state.description import Interval, Piece, share
from reknit.state.intervals import contiguous_partition, per_tensor_partition

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def tensors_of(sizes: list[int]) -> list[torch.Tensor]:
    """Tensors whose elements are all different."""
    numbers = torch.arange(sum(sizes), dtype=torch.float32)
    return list(torch.split(numbers, sizes))


@given(SIZES, st.integers(1, 6), st.integers(0, 3))
def test_contiguous_partitions_hold_each_element_once(sizes, num_parts, gap):
    """Cuts a buffer with gaps between its tensors, and puts the tensors together again."""
    tensors = tensors_of(sizes)
    offsets, buffer = [], torch.empty(0)
    for tensor in tensors:
        offsets.append(buffer.numel())
        buffer = torch.cat([buffer, tensor, torch.full((gap,), -1.0)])
    size = -(-max(1, buffer.numel()) // num_parts)
    buffer = torch.cat([buffer, torch.full((size * num_parts - buffer.numel(),), -1.0)])
    found = [torch.full_like(tensor, -2.0) for tensor in tensors]
    num_placed = 0
    for part in range(num_parts):
        interval = Interval(part * size, (part + 1) * size)
        held = buffer[interval.start : interval.stop]
        for placed in contiguous_partition(offsets, sizes, interval):
            num_placed += len(placed.interval)
            source = held[placed.offset : placed.offset + len(placed.interval)]
            found[placed.index][placed.interval.start : placed.interval.stop] = source
    assert num_placed == sum(sizes)
    assert all(one.equal(other) for one, other in zip(found, tensors, strict=True))


@given(SIZES, st.integers(1, 6))
def test_partitions_per_tensor_hold_each_element_once(sizes, num_parts):
    tensors = tensors_of(sizes)
    found = [torch.full_like(tensor, -2.0) for tensor in tensors]
    num_placed = 0
    for part in range(num_parts):
        cuts = []
        for tensor in tensors:
            length = -(-tensor.numel() // num_parts)
            padded = torch.cat([tensor, torch.full((length * num_parts - tensor.numel(),), -1.0)])
            cuts.append(padded[part * length : (part + 1) * length])
        held = torch.cat(cuts)
        for placed in per_tensor_partition(sizes, num_parts, part):
            num_placed += len(placed.interval)
            source = held[placed.offset : placed.offset + len(placed.interval)]
            found[placed.index][placed.interval.start : placed.interval.stop] = source
    assert num_placed == sum(sizes)
    assert all(one.equal(other) for one, other in zip(found, tensors, strict=True))


@given(SIZES, st.integers(1, 6))
def test_shares_write_each_element_once_and_are_even(sizes, num_ranks):
    tensors = tensors_of(sizes)
    pieces = [
        Piece(str(index), Interval(0, tensor.numel()), tensor)
        for index, tensor in enumerate(tensors)
    ]
    found = [torch.full_like(tensor, -2.0) for tensor in tensors]
    counts = []
    for rank in range(num_ranks):
        own = list(share(pieces, num_ranks, rank))
        counts.append(sum(len(piece.interval) for piece in own))
        for piece in own:
            assert len(piece.interval) == piece.data.numel()
            found[int(piece.name)][piece.interval.start : piece.interval.stop] = piece.data
    assert sum(counts) == sum(sizes)
    assert max(counts) - min(counts) <= 1
    assert all(one.equal(other) for one, other in zip(found, tensors, strict=True))


def test_shares_of_partial_pieces_keep_their_places():
    data = torch.arange(10.0)
    (piece,) = share([Piece("a", Interval(100, 110), data)], 2, 1)
    assert piece.interval == Interval(105, 110)
    assert piece.data.equal(data[5:])
