"""Strategies that go on in another generation after one that was broken off."""

import pytest
from engine_cases import Case
from shadow_cases import differences

from covering import thinned
from reknit.layout import Precision, Sharding
from reknit.strategies.scaling import ScalePolicy

BREAKS = ("backward", "gather", "rejoin", "backward")


@pytest.mark.parametrize(
    ("sharding", "precision", "model"), thinned(Sharding, Precision, ["reordered", "tied"])
)
def test_training_goes_on_as_if_nothing_had_happened(run_ranks, sharding, model, precision):
    """Through four ends of generations, with the same model and optimizer objects."""
    case = Case(
        model=model,
        sharding=sharding,
        precision=precision,
        num_ranks=3,
        micro=2,
        steps=12,
        clip=0.5,
        schedule=True,
        # Without overflows: a step that is left out has no gather that could be broken off.
        policy=ScalePolicy(initial=2.0**10, growth_interval=4),
    )
    undisturbed = run_ranks("rejoined", 3, case, ())
    outcomes = run_ranks("rejoined", 3, case, BREAKS)
    for found, expected in zip(outcomes, undisturbed, strict=True):
        assert found.losses == expected.losses
        assert found.num_hooks == expected.num_hooks
        assert differences(found.own, expected.own) == []
