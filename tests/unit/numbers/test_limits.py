import math
import random

import pytest

from reknit.numbers.limits import NUM_KEPT, NUM_NEEDED, NormHistory, breach


@pytest.mark.parametrize(
    ("loss", "norm", "limit", "found"),
    [
        (2.0, 1.0, math.inf, None),
        (2.0, 1.0, 1.0, None),
        (math.nan, 1.0, math.inf, "the loss is nan and the norm of the gradient is 1"),
        (2.0, math.inf, math.inf, "the loss is 2 and the norm of the gradient is inf"),
        (2.0, 1.5, 1.0, "the norm of the gradient is 1.5, far above the 1 that are usual"),
    ],
)
def test_what_counts_as_wrong(loss, norm, limit, found):
    assert breach(loss, norm, limit) == found


def test_outliers_need_a_history_and_a_factor():
    history = NormHistory()
    for _ in range(NUM_NEEDED - 1):
        history.add(2.0)
    assert history.limit(10.0) == math.inf
    history.add(1.0)
    assert history.limit(10.0) == 20.0
    assert history.limit(None) == math.inf


def test_only_the_latest_norms_count():
    history = NormHistory([100.0])
    for _ in range(NUM_KEPT):
        history.add(1.0)
    assert history.limit(10.0) == 10.0
    assert NormHistory.from_json(history.to_json()).limit(10.0) == 10.0
    assert NormHistory.from_json(None).limit(10.0) == math.inf


def test_ten_thousand_steps_of_noisy_training_raise_no_alarm():
    draw = random.Random(3)
    history = NormHistory()
    for step in range(10_000):
        # Falls as training goes on, is spread by a factor of three each way, and rises again
        # where the learning rate does.
        level = 5.0 * (1 + step % 3000) ** -0.3
        norm = level * math.exp(draw.gauss(0.0, 0.4))
        assert breach(1.0, norm, history.limit(10.0)) is None, step
        history.add(norm)
    assert breach(1.0, 1e3 * norm, history.limit(10.0)) is not None
