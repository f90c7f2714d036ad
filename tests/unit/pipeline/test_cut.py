"""Where a model is cut into stages."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.pipeline.cut import by_names, by_weight, ranges


@pytest.mark.parametrize(
    ("weights", "num_stages", "starts"),
    [
        ([1, 1, 1, 1], 2, (0, 2)),
        ([9, 1, 1, 1], 2, (0, 1)),
        ([5, 1, 1, 1, 5], 3, (0, 1, 4)),
        ([0, 0, 0], 3, (0, 1, 2)),
        ([1, 2, 3], 1, (0,)),
    ],
)
def test_stages_weigh_about_the_same(weights, num_stages, starts) -> None:
    assert by_weight(weights, num_stages) == starts


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.data())
def test_no_other_cut_is_better(weights, data) -> None:
    num_stages = data.draw(st.integers(1, len(weights)))

    def heaviest(starts):
        return max(sum(weights[i] for i in part) for part in ranges(starts, len(weights)))

    starts = by_weight(weights, num_stages)
    parts = ranges(starts, len(weights))
    assert [layer for part in parts for layer in part] == list(range(len(weights)))
    assert all(parts)
    assert len(parts) == num_stages
    best = min(
        heaviest((0, *chosen)) for chosen in combinations(range(1, len(weights)), num_stages - 1)
    )
    assert heaviest(starts) == best


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 layers do not make 3 stages"):
        by_weight([1, 1], 3)


def test_layers_are_named_where_stages_begin() -> None:
    assert by_names(["a", "b", "c", "d"], ["b", "d"]) == (0, 1, 3)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (["x"], "x is no layer; the layers are a, b, c"),
        (["a"], "a comes too early"),
        (["c", "b"], "b comes too early"),
        (["b", "b"], "b comes too early"),
    ],
)
def test_names_that_make_no_cut_are_refused(named, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        by_names(["a", "b", "c"], named)
