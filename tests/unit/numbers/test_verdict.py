import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.layout import BatchPlan
from reknit.numbers.verdict import Blame, Reading, Trial, Verdict, judge, rotation


def trial(num_ranks: int, wrong, *, moved: int = 0, per_rank: int = 1, value=math.nan) -> Trial:
    """A trial in which `wrong(rank, micro_batch)` says whose gradients are wrong."""
    plan = BatchPlan(num_ranks * per_rank, 1, num_ranks)
    readings = [
        Reading(
            rank,
            micro_batch,
            loss=1.0,
            norm=value if wrong(rank, micro_batch) else 1.0 + 0.1 * micro_batch,
            samples=(10 * micro_batch,),
        )
        for rank in range(num_ranks)
        for micro_batch in plan.micro_batches((rank + moved) % num_ranks)
    ]
    hit = any(wrong(reading.rank, reading.micro_batch) for reading in readings)
    return Trial("the loss is nan" if hit else None, tuple(readings))


def inquire(num_ranks: int, *wrong, per_rank: int = 1, value=math.nan) -> tuple[Verdict, int]:
    """The verdict, and the number of trials that it took; the last `wrong` holds from then on."""
    trials: list[Trial] = []
    while True:
        here = wrong[min(len(trials), len(wrong) - 1)]
        moved = rotation(len(trials))
        trials.append(trial(num_ranks, here, moved=moved, per_rank=per_rank, value=value))
        verdict = judge(trials, num_ranks)
        if verdict is not None:
            return verdict, len(trials)


def never(rank, micro_batch):
    return False


def always(rank, micro_batch):
    return True


VALUES = pytest.mark.parametrize("value", [math.nan, math.inf, 1e4])


@VALUES
@pytest.mark.parametrize("num_ranks", [2, 3, 8])
@pytest.mark.parametrize("per_rank", [1, 3])
def test_what_happens_once_is_the_rank_s_that_it_happened_on(num_ranks, per_rank, value):
    def once(rank, micro_batch):
        return rank == 1 and micro_batch == per_rank

    verdict, num_trials = inquire(num_ranks, once, never, per_rank=per_rank, value=value)
    assert (verdict.blame, verdict.ranks, num_trials) == (Blame.PASSING, (1,), 2)


@VALUES
@pytest.mark.parametrize("num_ranks", [2, 3, 8])
@pytest.mark.parametrize("per_rank", [1, 3])
def test_what_stays_with_a_rank_is_the_rank_s(num_ranks, per_rank, value):
    def broken(rank, micro_batch):
        return rank == 1 and micro_batch % per_rank == 0

    verdict, num_trials = inquire(num_ranks, broken, per_rank=per_rank, value=value)
    assert (verdict.blame, verdict.ranks, num_trials) == (Blame.RANK, (1,), 3)


@VALUES
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("per_rank", [1, 3])
def test_what_goes_with_the_data_is_the_data_s(num_ranks, per_rank, value):
    def bad(rank, micro_batch):
        return micro_batch == 0

    verdict, num_trials = inquire(num_ranks, bad, per_rank=per_rank, value=value)
    assert verdict.blame is Blame.DATA
    assert [reading.micro_batch for reading in verdict.readings] == [0]
    assert "micro-batch 0 (samples 0)" in verdict.sentence
    assert num_trials == (2 if num_ranks == 1 else 3)


def test_a_rank_that_goes_wrong_twice_but_not_elsewhere_is_to_blame():
    def twice(rank, micro_batch):
        return rank == 2

    verdict, _ = inquire(4, twice, twice, never)
    assert (verdict.blame, verdict.ranks) == (Blame.RANK, (2,))


@pytest.mark.parametrize("per_rank", [1, 3])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_what_comes_from_everything_is_the_model_s(num_ranks, per_rank):
    verdict, _ = inquire(num_ranks, always, per_rank=per_rank)
    alone = num_ranks * per_rank == 1
    assert verdict.blame is (Blame.DATA if alone else Blame.MODEL)


def test_a_broken_rank_is_named_beside_bad_data():
    def both(rank, micro_batch):
        return rank == 1 or micro_batch == 3

    verdict, _ = inquire(5, both)
    assert (verdict.blame, verdict.ranks) == (Blame.RANK, (1,))


def test_a_reduction_that_goes_wrong_names_nobody():
    fine = trial(2, never).readings
    trials = [Trial("the norm is nan", fine)] * 3
    verdict = judge(trials, 2)
    assert verdict is not None
    assert (verdict.blame, verdict.ranks, verdict.readings) == (Blame.UNKNOWN, (), ())


@given(
    num_ranks=st.integers(1, 6),
    hits=st.lists(st.frozensets(st.tuples(st.integers(0, 5), st.integers(0, 5))), max_size=3),
)
def test_every_inquiry_ends_after_three_trials_and_blames_ranks_that_exist(num_ranks, hits):
    def hit(found):
        return lambda rank, micro_batch: (rank, micro_batch) in found

    first = hits[0] if hits else frozenset()
    if not any(hit(first)(rank, rank) for rank in range(num_ranks)):
        return
    verdict, num_trials = inquire(num_ranks, *map(hit, hits))
    assert num_trials <= 3
    assert set(verdict.ranks) <= set(range(num_ranks))
    assert (verdict.blame is Blame.RANK) <= bool(verdict.ranks)
