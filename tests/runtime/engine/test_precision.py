"""BF16 and FP16 against one plain process that computes in the same formats."""

from itertools import product

import pytest
from engine_cases import Case, assemble

from covering import short
from reknit.layout import Precision, Sharding

HALF = [Precision.BF16, Precision.FP16]
CHOSEN = [
    (Sharding.NONE, "tied", Precision.BF16, 2),
    (Sharding.NONE, "reordered", Precision.FP16, 2),
    (Sharding.ZERO1, "tied", Precision.FP16, 4),
    (Sharding.ZERO2, "tied", Precision.BF16, 2),
    (Sharding.ZERO2, "reordered", Precision.FP16, 2),
    (Sharding.ZERO3, "tied", Precision.FP16, 2),
    (Sharding.FSDP, "tied", Precision.BF16, 2),
]


def errors(found: list[float], expected: list[float]) -> list[float]:
    return [abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True)]


@pytest.mark.parametrize(
    ("sharding", "model", "precision", "num_ranks"),
    short(product(Sharding, ["tied", "reordered"], HALF, [2, 4]), CHOSEN),
)
def test_half_precision_trains_as_in_one_process(
    run_ranks, plain_run, sharding, model, precision, num_ranks
):
    case = Case(
        model=model,
        sharding=sharding,
        precision=precision,
        num_ranks=num_ranks,
        accumulation=2,
        clip=0.5,
    )
    run, expected = run_ranks("train", num_ranks, case)[0], plain_run(case)
    assert any(expected.skipped) == (precision is Precision.FP16), "by overflow alone"
    assert run.skipped == expected.skipped
    assert run.scales == expected.scales
    found = errors(run.losses, expected.losses)
    assert max(found[:10]) <= 1e-6
    # One weight that is rounded the other way is seen in the loss.
    assert max(found) <= (1e-3 if precision is Precision.BF16 else 1e-4)
    assert sum(expected.losses[-6:]) < 0.97 * sum(expected.losses[:6]), "nothing has been learnt"


@pytest.mark.parametrize("sharding", Sharding)
def test_overflows_are_left_out_and_counted(run_ranks, sharding):
    case = Case(sharding=sharding, precision=Precision.FP16, steps=25)
    runs = run_ranks("train", 2, case)
    skipped = runs[0].skipped
    assert skipped[:3] == [True] * 3, "the first scale must overflow"
    assert not all(skipped)
    assert any(skipped[10:]), "the scale must have grown until it overflowed again"
    state = assemble([run.state for run in runs])
    assert state.scalars["version"] == 25
    assert state.scalars["updates"] == 25 - sum(skipped)


@pytest.mark.parametrize("precision", HALF)
def test_masters_begin_as_the_exact_weights(run_ranks, precision):
    """DeepSpeed rounds the weights first and copies the masters from that."""
    case = Case(precision=precision, steps=0)
    whole = assemble([run.state for run in run_ranks("train", 2, case)])
    for sharding in (Sharding.ZERO1, Sharding.ZERO2, Sharding.ZERO3):
        runs = run_ranks("train", 2, Case(sharding=sharding, precision=precision, steps=0))
        divided = assemble([run.state for run in runs])
        for name, tensor in whole.tensors.items():
            assert divided.tensors[name].equal(tensor), (sharding, name)
