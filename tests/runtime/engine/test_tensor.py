"""Layers that ranks divide, and groups that divide the state, against one plain process."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from engine_cases import Case, assemble
from shadow_cases import differences, same_bits
from test_numerics import relative_errors

from covering import short
from reknit.layout import Degrees, Precision, Sharding
from reknit.strategies.scaling import ScalePolicy

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
        replace(PAIR, accumulation=4, clip=0.05),
        replace(SQUARE, accumulation=2, clip=0.05, schedule=True),
        replace(HYBRID, accumulation=2, clip=0.05),
        pytest.param(PAIR, marks=pytest.mark.long),
        pytest.param(SQUARE, marks=pytest.mark.long),
        pytest.param(FOUR, marks=pytest.mark.long),
        pytest.param(HYBRID, marks=pytest.mark.long),
        # Five micro-batches on two places: one runs a pass of weight 0.
        pytest.param(replace(SQUARE, global_batch=10, micro=2), marks=pytest.mark.long),
    ],
)
def test_training_is_that_of_one_process(run_ranks, plain_run, case) -> None:
    check(run_ranks, plain_run, case)


BEFORE, END = 4, 9


def resumable(case: Case) -> Case:
    return replace(case, steps=END, clip=0.5, schedule=True, micro=2, accumulation=1)


PLAIN = Case(model="heads", num_ranks=1)
LAYOUTS = {
    "2 x 2": SQUARE,
    "1 x 4": FOUR,
    "hybrid": HYBRID,
    "ZeRO2 on 3": replace(PLAIN, num_ranks=3, sharding=Sharding.ZERO2),
    "one process": PLAIN,
}
"""A state goes round: from each of them to the next one."""


@pytest.fixture(scope="module")
def states(run_ranks):
    known = {}

    def get(name: str):
        if name not in known:
            case = replace(resumable(LAYOUTS[name]), steps=BEFORE)
            known[name] = assemble([r.state for r in run_ranks("train", case.num_ranks, case)])
        return known[name]

    return get


@pytest.mark.parametrize("name", short([("2 x 2",), ("1 x 4",), ("hybrid",)], [("2 x 2",)]))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run_ranks, states, name) -> None:
    case = resumable(LAYOUTS[name])
    whole = run_ranks("train", case.num_ranks, case)
    resumed = run_ranks("train", case.num_ranks, case, states(name))
    assert resumed[0].losses == whole[0].losses[BEFORE:]
    expected, found = (assemble([run.state for run in runs]) for runs in (whole, resumed))
    assert (found.scalars, found.specs) == (expected.scalars, expected.specs)
    for tensor_name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[tensor_name], tensor), tensor_name


@pytest.mark.parametrize(("source", "target"), list(pairwise([*LAYOUTS, *LAYOUTS]))[: len(LAYOUTS)])
def test_a_run_goes_on_in_another_layout(run_ranks, states, plain_run, source, target) -> None:
    case = resumable(LAYOUTS[target])
    found = run_ranks("train", case.num_ranks, case, states(source))[0].losses
    expected = plain_run(resumable(PLAIN)).losses[BEFORE:]
    assert max(relative_errors(found, expected)) <= 1e-6


@pytest.mark.parametrize(
    "precision", short([(precision,) for precision in Precision], [(Precision.FP16,)])
)
def test_a_rank_without_replicas_has_a_copy_elsewhere(run_ranks, precision) -> None:
    """In FP16 with steps that are left out."""
    case = replace(FOUR, precision=precision, clip=0.05, steps=10, accumulation=2, optimizer="Adam")
    outcomes = run_ranks("shadowed", 4, case)
    for rank, outcome in enumerate(outcomes):
        ward = (rank - 1) % 4
        assert differences(outcome.shadows[ward], outcomes[ward].shard) == []
        assert outcome.differing == ()
    assert any(outcomes[0].skipped) == (precision is Precision.FP16)
    plain = run_ranks("train", 4, case)
    assert outcomes[0].losses == plain[0].losses, "protection changes the training"


BEFORE_ANY, BETWEEN = "before any update", "between the copies and the original"


@pytest.mark.parametrize(
    ("name", "how"),
    short(
        [("2 x 2", BEFORE_ANY), ("1 x 4", BETWEEN), ("1 x 4", BEFORE_ANY), ("2 x 2", BETWEEN)],
        [("1 x 4", BETWEEN)],
    ),
)
def test_a_step_is_completed_without_the_others(run_ranks, name, how) -> None:
    case = replace(LAYOUTS[name], steps=3, clip=0.05)
    expected = assemble([run.state for run in run_ranks("train", 4, case)])
    for outcome in run_ranks("completed", 4, case, how):
        assert outcome.shard.scalars["optimizer"] == expected.scalars["optimizer"]
        for name, start, data in outcome.shard.pieces:
            assert same_bits(data, expected.tensors[name][start : start + len(data)]), name


@pytest.mark.parametrize(
    "precision", short([(Precision.BF16,), (Precision.FP16,)], [(Precision.BF16,)])
)
def test_lower_precision_trains_close_to_full(run_ranks, plain_run, precision) -> None:
    policy = ScalePolicy(initial=2.0**10, growth_interval=50)
    case = replace(SQUARE, precision=precision, policy=policy, steps=20)
    run = run_ranks("train", 4, case)[0]
    expected = plain_run(replace(SQUARE, steps=20)).losses
    assert max(relative_errors(run.losses, expected)) <= 2e-2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "transformer"}, "nothing says which layers are cut"),
        ({"optimizer": "Adafactor"}, "the optimizer Adafactor needs whole tensors, which tensor"),
        ({"model": "between"}, "the gradient of scale, which is not cut, differs between ranks"),
        ({"degrees": Degrees(tensor=3), "num_ranks": 3}, "cannot be divided among 3 ranks"),
    ],
)
def test_what_cannot_be_cut_is_refused(run_ranks, changes, sentence) -> None:
    case = replace(PAIR, **changes)
    assert sentence in run_ranks("refusal", case.num_ranks, case)[0]
