"""FP32 training under every strategy against one plain process on the same global batches."""

from itertools import product

import pytest
from engine_cases import Case, assemble

from covering import diagonal, short
from reknit.layout import Sharding

FIRST_STEPS = 5
MODELS = ("transformer", "tied", "reordered", "groups")
NUMS_RANKS = (2, 4)
ACCUMULATIONS = (1, 4)


def relative_errors(found: list[float], expected: list[float]) -> list[float]:
    return [abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True)]


def check(run_ranks, plain_run, case: Case) -> None:
    runs = run_ranks("train", case.num_ranks, case)
    expected = plain_run(case)
    assert all(run.losses == runs[0].losses for run in runs), "the ranks disagree"
    losses = relative_errors(runs[0].losses, expected.losses)
    assert max(losses[:FIRST_STEPS]) <= 1e-6
    assert max(losses) <= 1e-4
    norms = relative_errors(runs[0].norms, expected.norms)
    assert max(norms) <= 1e-4
    # Six steps are an epoch: the same samples.
    assert sum(expected.losses[-6:]) < 0.97 * sum(expected.losses[:6]), "nothing has been learnt"
    assemble([run.state for run in runs])


def chosen() -> list[tuple[str, Sharding, int, int]]:
    """Two cases of each sharding, with both numbers of ranks and of micro-batches."""
    return [
        (
            MODELS[(2 * i + which) % 4],
            sharding,
            NUMS_RANKS[(which + i // 2) % 2],
            ACCUMULATIONS[(which + (i + 1) // 2) % 2],
        )
        for i, sharding in enumerate(Sharding)
        for which in range(2)
    ]


@pytest.mark.parametrize(
    ("model", "sharding", "num_ranks", "accumulation"),
    short(product(MODELS, Sharding, NUMS_RANKS, ACCUMULATIONS), chosen()),
)
def test_models_train_as_in_one_process(
    run_ranks, plain_run, model, sharding, num_ranks, accumulation
):
    """Tied weights and dropout; gradients in another order; parameter groups of equal size."""
    case = Case(model=model, sharding=sharding, num_ranks=num_ranks, accumulation=accumulation)
    check(run_ranks, plain_run, case)


@pytest.mark.parametrize(
    "sharding",
    short([(sharding,) for sharding in Sharding], [(Sharding.NONE,), (Sharding.ZERO3,)]),
)
def test_a_world_that_does_not_divide_the_batch_trains_alike(run_ranks, plain_run, sharding):
    """Eight micro-batches on three ranks: one of them runs a pass of weight 0."""
    case = Case(model="tied", sharding=sharding, num_ranks=3, micro=2, steps=12)
    check_losses = run_ranks("train", 3, case)[0].losses
    assert max(relative_errors(check_losses, plain_run(case).losses)) <= 1e-6


@pytest.mark.parametrize(
    ("sharding", "optimizer"),
    diagonal([Sharding.NONE, Sharding.ZERO1, Sharding.ZERO3], ["SGD", "Adagrad", "NAdam"]),
)
def test_clipping_and_schedules_are_those_of_torch(run_ranks, plain_run, sharding, optimizer):
    case = Case(
        model="reordered",
        sharding=sharding,
        optimizer=optimizer,
        clip=0.02,
        schedule=optimizer == "SGD",
        learning_rate=0.02,
        steps=15,
    )
    run = run_ranks("train", 2, case)[0]
    expected = plain_run(case)
    assert max(relative_errors(run.losses, expected.losses)) <= 1e-6
    assert max(relative_errors(run.norms, expected.norms)) <= 1e-5
    assert min(expected.norms) > 0.02, "nothing was clipped"


@pytest.mark.parametrize(
    "sharding",
    short([(sharding,) for sharding in Sharding], [(Sharding.NONE,), (Sharding.ZERO2,)]),
)
def test_a_parameter_may_go_unused_in_a_step(run_ranks, plain_run, sharding):
    """It is left alone, under ZeRO updated with a gradient of zero; never with an older one."""
    case = Case(model="sometimes", sharding=sharding, steps=8)
    run = run_ranks("train", 2, case)[0]
    assert max(relative_errors(run.losses, plain_run(case).losses)) <= 1e-6
