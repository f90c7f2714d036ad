"""Going on from a state in memory: in the same way bit for bit, in another within rounding."""

from dataclasses import replace

import pytest
import torch
from engine_cases import Case, assemble

from covering import thinned
from reknit.layout import Precision, Sharding

BEFORE, STEPS = 5, 11
MODELS = ("tied", "reordered", "groups")


def resumable(model: str, sharding: Sharding, **changes: object) -> Case:
    # Three ranks divide neither the eight micro-batches nor the parameters evenly.
    case = Case(
        model=model, sharding=sharding, num_ranks=3, micro=2, steps=STEPS, clip=0.5, schedule=True
    )
    return replace(case, **changes)


@pytest.fixture(scope="module")
def states(run_ranks):
    """The states at step `BEFORE` of runs that go no further."""
    known = {}

    def get(case: Case):
        if case not in known:
            runs = run_ranks("train", case.num_ranks, replace(case, steps=BEFORE))
            known[case] = assemble([run.state for run in runs])
        return known[case]

    return get


@pytest.mark.parametrize(
    ("sharding", "model", "precision"), thinned(Sharding, MODELS, list(Precision))
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    run_ranks, states, model, sharding, precision
):
    case = resumable(model, sharding, precision=precision)
    whole = run_ranks("train", 3, case)
    resumed = run_ranks("train", 3, case, states(case))
    assert resumed[0].losses == whole[0].losses[BEFORE:]
    assert resumed[0].norms == whole[0].norms[BEFORE:]
    assert resumed[0].scales == whole[0].scales[BEFORE:]
    expected, found = (assemble([run.state for run in runs]) for runs in (whole, resumed))
    assert found.scalars == expected.scalars
    assert found.specs == expected.specs
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name


@pytest.mark.parametrize(("sharding", "model", "num_ranks"), thinned(Sharding, MODELS, [1, 2, 4]))
def test_a_run_goes_on_in_another_world_under_another_strategy(
    run_ranks, states, plain_run, model, sharding, num_ranks
):
    choices = list(Sharding)
    source = choices[(choices.index(sharding) + num_ranks) % len(choices)]
    start = states(resumable(model, source))
    run = run_ranks("train", num_ranks, resumable(model, sharding, num_ranks=num_ranks), start)[0]
    expected = plain_run(resumable(model, Sharding.NONE)).losses[BEFORE:]
    errors = [abs(one - other) / other for one, other in zip(run.losses, expected, strict=True)]
    assert max(errors) <= 1e-6


def test_parameters_that_zero_3_keeps_whole_are_resumed_too(run_ranks, states):
    case = resumable("tied", Sharding.ZERO3, threshold=10_000)
    whole = run_ranks("train", 3, case)[0]
    assert run_ranks("train", 3, case, states(case))[0].losses == whole.losses[BEFORE:]


def test_the_user_s_state_is_part_of_the_version(states):
    state = states(resumable("tied", Sharding.ZERO1))
    assert state.scalars["job_state"] == {"note": "kept"}
    assert (state.scalars["version"], state.scalars["updates"]) == (BEFORE, BEFORE)
