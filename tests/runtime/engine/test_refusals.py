"""What a strategy cannot train is refused before the first step, with a sentence."""

import pytest
from engine_cases import Case

from reknit.layout import Sharding
from reknit.protocol.settings import CommunicationSettings, RoundSettings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimizer": "Adafactor"}, "the optimizer Adafactor needs whole tensors"),
        ({"model": "scalar", "sharding": Sharding.ZERO3}, "ZeRO 3 cannot hold scale"),
        ({"model": "groups", "optimizer": "Adagrad"}, "Adagrad can have one parameter group"),
        ({"model": "empty group"}, "a parameter group without parameters"),
        ({"deepspeed": (("optimizer", {}),)}, "optimizer: is the argument optimizer"),
    ],
)
def test_zero_refuses_what_it_cannot_divide(run_ranks, changes, sentence):
    case = Case(**{"sharding": Sharding.ZERO2, "steps": 1, **changes})
    assert sentence in run_ranks("refusal", 1, case)[0]


def test_rounds_refuse_what_they_cannot_divide(run_ranks):
    """A world of another size than the manifest's may come to this."""
    rounds = CommunicationSettings(rounds=RoundSettings(local_steps=3))
    sentence = run_ranks("refusal", 1, Case(num_ranks=1, accumulation=4, communication=rounds))[0]
    assert "4 micro-batches in a round are no multiple of the 3 local steps" in sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "Adafactor", "sharding": Sharding.NONE},
        {"model": "scalar", "sharding": Sharding.ZERO2},
        {"model": "empty group", "sharding": Sharding.NONE},
        {"model": "groups", "optimizer": "Adagrad", "sharding": Sharding.NONE},
    ],
)
def test_other_strategies_train_the_same(run_ranks, plain_run, changes):
    case = Case(steps=6, **changes)
    run, expected = run_ranks("train", 2, case)[0], plain_run(case)
    assert run.losses == pytest.approx(expected.losses, rel=1e-6)
