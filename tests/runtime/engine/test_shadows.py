"""Copies of shards in other ranks' memory: bit for bit the originals, whatever happens."""

import pytest
from engine_cases import Case, assemble
from shadow_cases import differences, same_bits

from covering import diagonal, short, thinned
from reknit.layout import Precision, Sharding

SHARDED = [sharding for sharding in Sharding if sharding.is_sharded]
OPTIMIZERS = ["Adam", "SGD", "Adagrad", "RMSprop", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD"]


def case_of(sharding: Sharding, **changes: object) -> Case:
    """Four ranks do not divide the parameters evenly; every step is clipped."""
    settings = {"model": "reordered", "num_ranks": 4, "accumulation": 2, "steps": 10, "clip": 0.02}
    return Case(**{"sharding": sharding, "schedule": True, **settings, **changes})


def check(outcomes, copies: int = 1) -> None:
    """Every shadow is what its ward holds, and says so."""
    num_ranks = len(outcomes)
    for rank, outcome in enumerate(outcomes):
        wards = [(rank - distance) % num_ranks for distance in range(1, copies + 1)]
        assert list(outcome.shadows) == wards
        for ward in wards:
            assert differences(outcome.shadows[ward], outcomes[ward].shard) == []
        assert outcome.differing == ()


@pytest.mark.parametrize(
    ("sharding", "model", "precision"),
    thinned(SHARDED, ["reordered", "groups", "tied"], list(Precision)),
)
def test_a_shadow_is_its_ward_s_shard(run_ranks, sharding, model, precision):
    """With clipping, a schedule, frozen weights, parameter groups, and steps left out in FP16."""
    case = case_of(sharding, model=model, precision=precision)
    outcomes = run_ranks("shadowed", 4, case)
    check(outcomes)
    assert any(outcomes[0].skipped) == (precision is Precision.FP16)
    plain = run_ranks("train", 4, case)
    assert outcomes[0].losses == plain[0].losses, "protection changes the training"


@pytest.mark.parametrize(
    ("optimizer", "sharding"),
    [(name, SHARDED[number % len(SHARDED)]) for number, name in enumerate(OPTIMIZERS)],
)
def test_every_elementwise_optimizer_can_be_shadowed(run_ranks, sharding, optimizer):
    """From the middle on, with state that is there already."""
    # The schedule also changes the first moment's decay, which these do not have.
    schedule = optimizer not in {"Adagrad", "Rprop", "ASGD"}
    case = case_of(sharding, optimizer=optimizer, schedule=schedule)
    check(run_ranks("shadowed", 4, case, 1, 4))


@pytest.mark.parametrize(
    "sharding",
    short([(sharding,) for sharding in SHARDED], [(Sharding.ZERO2,), (Sharding.FSDP,)]),
)
def test_two_ranks_can_hold_a_shard(run_ranks, sharding):
    check(run_ranks("shadowed", 4, case_of(sharding), 2, 2), copies=2)


@pytest.mark.parametrize(
    ("sharding", "precision"), diagonal(SHARDED, [Precision.FP32, Precision.FP16])
)
def test_an_optimizer_that_cannot_be_shadowed_is_copied(run_ranks, sharding, precision):
    case = case_of(sharding, precision=precision)
    outcomes = run_ranks("shadowed", 4, case, 1, 0, False)
    check(outcomes)


@pytest.mark.parametrize("sharding", SHARDED)
def test_a_single_wrong_bit_is_found_where_it_is_and_its_copy_made_anew(run_ranks, sharding):
    outcomes = run_ranks("shadowed", 4, case_of(sharding, steps=3), 2, 0, True, 2)
    assert [outcome.differing for outcome in outcomes] == [(), (), (1,), ()]
    for rank, outcome in enumerate(outcomes):
        assert outcome.still_differing == ()
        assert sorted(outcome.shadows) == sorted({(rank - 1) % 4, (rank - 2) % 4})
        for ward, shadow in outcome.shadows.items():
            assert differences(shadow, outcomes[ward].shard) == []


@pytest.mark.parametrize(
    ("sharding", "how", "precision"),
    thinned(
        SHARDED,
        ["before any update", "between the copies and the original", "in the gather"],
        [Precision.FP32, Precision.BF16],
    ),
)
def test_a_step_is_completed_without_the_other_ranks(run_ranks, sharding, precision, how):
    case = case_of(sharding, precision=precision, steps=5)
    expected = run_ranks("shadowed", 4, case)
    outcomes = run_ranks("completed", 4, case, how)
    for outcome, undisturbed in zip(outcomes, expected, strict=True):
        assert differences(outcome.shard, undisturbed.shard) == []
    check(outcomes)


def test_replicas_complete_a_step_without_each_other(run_ranks):
    case = case_of(Sharding.NONE, steps=5)
    expected = assemble([run.state for run in run_ranks("train", 4, case)])
    for how in ("before any update", "between the copies and the original"):
        for outcome in run_ranks("completed", 4, case, how):
            assert outcome.shard.scalars["optimizer"] == expected.scalars["optimizer"]
            for name, _, data in outcome.shard.pieces:
                assert same_bits(data, expected.tensors[name]), name


@pytest.mark.parametrize(
    "sharding",
    short([(Sharding.ZERO1,), (Sharding.ZERO2,), (Sharding.ZERO3,)], [(Sharding.ZERO2,)]),
)
def test_a_copy_that_cannot_follow_is_not_taken_for_a_new_one(run_ranks, sharding):
    case = case_of(sharding, steps=5)
    outcomes = run_ranks("completed", 4, case, "in the gather", False)
    assert [outcome.shadows for outcome in outcomes] == [{}] * 4
