from hypothesis import given
from hypothesis import strategies as st

from reknit.data.seeds import derive_seed, micro_batch_seed

numbers = st.integers(-(2**70), 2**70)


@given(seed=numbers, step=numbers, index=numbers)
def test_seeds_fit_every_generator(seed, step, index):
    assert 0 <= micro_batch_seed(seed, step, index) < 2**63


def test_each_micro_batch_has_its_own_seed():
    seeds = {
        micro_batch_seed(seed, step, index, purpose)
        for seed in range(4)
        for step in range(40)
        for index in range(40)
        for purpose in ("compute", "transform")
    }
    assert len(seeds) == 4 * 40 * 40 * 2


def test_numbers_are_kept_apart():
    assert derive_seed("x", 1, 23) != derive_seed("x", 12, 3)
    assert derive_seed("x", 1) != derive_seed("x", 1, 0)


def test_seeds_never_change_between_releases():
    assert micro_batch_seed(0, 0, 0) == GOLDEN[0]
    assert micro_batch_seed(7, 100, 3, "transform") == GOLDEN[1]


GOLDEN = (7610383014042429646, 4178004231998002167)
