import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reknit.data import Arrays
from reknit.data.evaluation import EvaluationLoader
from reknit.errors import ConfigurationError


def numbers(length):
    return Arrays(torch.arange(length, dtype=torch.float64))


def passes(dataset, rank, num_ranks, micro, limit=None, **options):
    with EvaluationLoader(
        dataset, micro=micro, rank=rank, num_ranks=num_ranks, seed=0, limit=limit, **options
    ) as loader:
        return list(loader)


@given(
    length=st.integers(1, 40),
    num_ranks=st.integers(1, 6),
    micro=st.integers(1, 7),
    limit=st.none() | st.integers(1, 60),
)
def test_the_weighted_mean_is_the_mean_over_the_samples(length, num_ranks, micro, limit):
    ranks = [passes(numbers(length), rank, num_ranks, micro, limit) for rank in range(num_ranks)]
    counted = min(length, limit or length)
    mean = sum(p.weight * p.data[0].mean().item() for rank in ranks for p in rank)
    assert mean == pytest.approx((counted - 1) / 2)
    assert [i for rank in ranks for p in rank for i in p.sample_ids] == list(range(counted))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(p.data[0].numel() >= 1 for rank in ranks for p in rank)


def test_the_number_of_passes_is_known_beforehand():
    with EvaluationLoader(numbers(10), micro=3, rank=0, num_ranks=3, seed=0) as loader:
        assert loader.num_passes == len(list(loader)) == 2


def test_transforms_draw_the_same_numbers_in_every_evaluation_and_world():
    def noise(sample, generator):
        return (torch.rand(1, generator=generator),)

    def drawn(num_ranks):
        return {
            p.index: p.data[0].tolist()
            for rank in range(num_ranks)
            for p in passes(numbers(20), rank, num_ranks, 4, transform=noise)
            if p.index is not None
        }

    assert drawn(1) == drawn(1) == drawn(3)


@pytest.mark.parametrize(("length", "limit"), [(0, None), (5, 0)])
def test_nothing_to_evaluate_on_is_refused(length, limit):
    with pytest.raises(ConfigurationError, match="no sample to evaluate on"):
        passes(numbers(length), 0, 1, 2, limit)
