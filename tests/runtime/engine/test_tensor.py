"""Layers that ranks divide, and groups that divide the state, against one plain process."""

from dataclasses import replace

import pytest
from engine_cases import Case, assemble
from test_numerics import relative_errors

from reknit.layout import Degrees, Sharding

STEPS, FIRST_STEPS = 30, 5
PAIR = Case(model="heads", degrees=Degrees(tensor=2), steps=STEPS)
"""One copy of the model on two ranks."""
SQUARE = replace(PAIR, num_ranks=4)
"""Two such pairs."""
FOUR = replace(PAIR, num_ranks=4, degrees=Degrees(tensor=4))
HYBRID = Case(
    model="heads",
    num_ranks=4,
    sharding=Sharding.FSDP,
    degrees=Degrees(shard_group=2),
    steps=STEPS,
)


def check(run_ranks, plain_run, case: Case) -> None:
    runs = run_ranks("train", case.num_ranks, case)
    expected = plain_run(case)
    assert all(run.losses == runs[0].losses for run in runs), "the ranks disagree"
    losses = relative_errors(runs[0].losses, expected.losses)
    assert max(losses[:FIRST_STEPS]) <= 1e-6
    assert max(losses) <= 1e-4
    assert max(relative_errors(runs[0].norms, expected.norms)) <= 1e-4
    assert sum(expected.losses[-6:]) < 0.97 * sum(expected.losses[:6]), "nothing has been learnt"
    assemble([run.state for run in runs])


@pytest.mark.parametrize(
    "case",
    [
        PAIR,
        replace(PAIR, accumulation=4, clip=0.05),
        replace(SQUARE, accumulation=2),
        replace(SQUARE, clip=0.05, schedule=True),
        FOUR,
        HYBRID,
        replace(HYBRID, accumulation=2, clip=0.05),
        # Five micro-batches on two places: one runs a pass of weight 0.
        replace(SQUARE, global_batch=10, micro=2),
    ],
)
def test_training_is_that_of_one_process(run_ranks, plain_run, case) -> None:
    check(run_ranks, plain_run, case)
