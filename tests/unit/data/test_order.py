import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.data.order import DataOrder

seeds = st.integers(-(2**63), 2**63 - 1)


@given(num_samples=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 10**9))
def test_every_epoch_has_each_sample_once(num_samples, seed, epoch):
    order = DataOrder(num_samples, seed)
    start = epoch * num_samples
    assert sorted(order.samples(range(start, start + num_samples))) == list(range(num_samples))


@pytest.mark.parametrize("num_samples", range(1, 130))
def test_small_data_sets_are_permuted(num_samples):
    order = DataOrder(num_samples, seed=0)
    assert sorted(order.samples(range(num_samples))) == list(range(num_samples))


@given(
    num_samples=st.integers(1, 2**62),
    seed=seeds,
    start=st.integers(0, 2**64),
    lengths=st.lists(st.integers(0, 40), max_size=4),
)
def test_ranges_may_be_asked_for_in_any_pieces(num_samples, seed, start, lengths):
    order = DataOrder(num_samples, seed)
    whole = order.samples(range(start, start + sum(lengths)))
    pieces, position = [], start
    for length in lengths:
        pieces += order.samples(range(position, position + length))
        position += length
    assert pieces == whole
    assert whole == [order.sample(position) for position in range(start, position)]
    assert all(0 <= sample < num_samples for sample in whole)


def test_a_range_runs_on_across_epochs():
    order = DataOrder(7, seed=3)
    assert order.samples(range(4, 17)) == (
        order.samples(range(4, 7)) + order.samples(range(7, 14)) + order.samples(range(14, 17))
    )


def test_the_order_never_changes_between_releases():
    """A resumed job must go on in the order it began with."""
    assert DataOrder(10, seed=0).samples(range(20)) == GOLDEN_SMALL
    assert DataOrder(10**12, seed=-5).samples(range(10**15, 10**15 + 4)) == GOLDEN_LARGE


GOLDEN_SMALL = [5, 6, 8, 3, 4, 7, 2, 1, 0, 9, 9, 3, 1, 4, 0, 7, 5, 8, 2, 6]
GOLDEN_LARGE = [884336260439, 799311783343, 563504173065, 161308712176]


def test_epochs_and_seeds_differ():
    order = DataOrder(1000, seed=0)
    first, second = order.samples(range(1000)), order.samples(range(1000, 2000))
    other = DataOrder(1000, seed=1).samples(range(1000))
    # Two random permutations of 1000 agree in one place on average, in 10 hardly ever.
    for one, another in [(first, second), (first, other), (first, list(range(1000)))]:
        assert sum(a == b for a, b in zip(one, another, strict=True)) < 10


@pytest.mark.parametrize("num_samples", [5, 16, 23])
def test_every_sample_comes_first_equally_often(num_samples):
    num_epochs = 4000
    order = DataOrder(num_samples, seed=11)
    counts = Counter(order.sample(epoch * num_samples) for epoch in range(num_epochs))
    expected = num_epochs / num_samples
    statistic = sum((counts[s] - expected) ** 2 / expected for s in range(num_samples))
    # Chi-squared with n - 1 degrees of freedom: mean n - 1, variance 2 (n - 1).
    degrees = num_samples - 1
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5


def test_neighbours_are_unrelated():
    """The distances of consecutive samples spread like those of random pairs."""
    num_samples = 10_000
    samples = DataOrder(num_samples, seed=2).samples(range(num_samples))
    distances = [(b - a) % num_samples for a, b in pairwise(samples)]
    buckets = Counter(distance * 20 // num_samples for distance in distances)
    expected = len(distances) / 20
    assert sum((buckets[b] - expected) ** 2 / expected for b in range(20)) < 19 + 5 * 38**0.5


def test_without_shuffling_samples_keep_their_order():
    assert DataOrder(4, seed=9, shuffle=False).samples(range(2, 10)) == [2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("num_samples", [0, -1, 2**62 + 1])
def test_impossible_sizes_are_refused(num_samples):
    with pytest.raises(ValueError, match=r"between 1 and 2\*\*62 samples"):
        DataOrder(num_samples, seed=0)


@pytest.mark.parametrize("positions", [range(-1, 3), range(0, 10, 2), range(5, 0, -1)])
def test_other_ranges_are_refused(positions):
    with pytest.raises(ValueError, match="consecutive"):
        DataOrder(10, seed=0).samples(positions)


def test_a_huge_data_set_costs_neither_memory_nor_time():
    order = DataOrder(2**62, seed=0)
    start = time.perf_counter()
    samples = order.samples(range(2**70, 2**70 + 100_000))
    seconds = time.perf_counter() - start
    assert len(set(samples)) == 100_000
    # About 0.05 s; a permutation of 2**62 numbers would not fit the machine.
    assert seconds < 5
