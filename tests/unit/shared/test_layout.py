import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.layout import BatchPlan, Degrees, Sharding


@pytest.mark.parametrize(
    ("degrees", "world_size", "expected"),
    [
        (Degrees(), 1, Degrees(1, 1, 1)),
        (Degrees(), 8, Degrees(8, 1, 1)),
        (Degrees(data=-1, pipeline=2), 8, Degrees(4, 2, 1)),
        (Degrees(data=2, pipeline=-1, tensor=2), 8, Degrees(2, 2, 2)),
        (Degrees(data=2, pipeline=2, tensor=2), 8, Degrees(2, 2, 2)),
        (Degrees(shard_group=2), 6, Degrees(6, shard_group=2)),
    ],
)
def test_open_degree_takes_what_is_left(
    degrees: Degrees, world_size: int, expected: Degrees
) -> None:
    assert degrees.resolve(world_size) == expected


@pytest.mark.parametrize(
    ("degrees", "world_size", "sentence"),
    [
        (
            Degrees(data=3),
            4,
            "data 3 x pipeline 1 x tensor 1 does not multiply to the world of 4 ranks",
        ),
        (
            Degrees(data=-1, tensor=3),
            4,
            "data -1 x pipeline 1 x tensor 3 does not multiply to the world of 4 ranks",
        ),
        (Degrees(data=-1, pipeline=-1), 4, "only one degree may be -1, not data and pipeline"),
        (Degrees(shard_group=4), 6, "6 data-parallel ranks do not make groups of 4"),
        (Degrees(tensor=2, shard_group=4), 6, "3 data-parallel ranks do not make groups of 4"),
    ],
)
def test_degrees_that_do_not_fit_are_refused_with_the_equation(
    degrees: Degrees, world_size: int, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        degrees.resolve(world_size)


def test_zero_stages_are_numbered_as_in_deepspeed() -> None:
    assert [sharding.zero_stage for sharding in Sharding] == [0, 1, 2, 3, 0]


plans = st.builds(
    lambda micro, num_micro, num_ranks: BatchPlan(micro * num_micro, micro, num_ranks),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 17),
)


@given(plans)
def test_every_micro_batch_belongs_to_exactly_one_rank_in_order(plan: BatchPlan) -> None:
    passes = [plan.micro_batches(rank) for rank in range(plan.num_ranks)]
    owned = [index for own in passes for index in own if index is not None]
    assert owned == list(range(plan.num_micro_batches))
    assert {len(own) for own in passes} == {plan.num_steps}


@given(plans)
def test_work_is_spread_evenly(plan: BatchPlan) -> None:
    counts = [
        sum(index is not None for index in plan.micro_batches(rank))
        for rank in range(plan.num_ranks)
    ]
    assert max(counts) - min(counts) <= 1


@given(plans, st.integers(0, 1000))
def test_positions_of_a_step_are_the_global_batch(plan: BatchPlan, step: int) -> None:
    positions = [
        position
        for index in range(plan.num_micro_batches)
        for position in plan.positions(step, index)
    ]
    start = step * plan.global_batch
    assert positions == list(range(start, start + plan.global_batch))


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((10, 4, 1), "the global batch of 10 samples is no multiple of the micro-batch of 4"),
        ((0, 1, 1), "must be at least 1"),
        ((8, 2, 0), "must be at least 1"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(sizes: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BatchPlan(*sizes)
