"""Which numbers a training step draws."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from reknit.data.generators import seed_generators
from reknit.data.loader import StepLoader
from reknit.data.order import DataOrder
from reknit.layout import BatchPlan, Precision
from reknit.strategies.base import OneByOne, Recipe
from reknit.strategies.scaling import ScalePolicy
from reknit.trainer.gate import Vote
from reknit.trainer.step import Stepper
from reknit.trainer.timing import Stopwatch


def draw():
    return random.random(), float(np.random.random()), float(torch.rand(()))


@pytest.mark.parametrize("bit", [0, 31, 32, 62])
def test_every_bit_of_a_seed_counts_for_every_generator(bit):
    drawn = []
    for seed in (5, 5, 5 ^ (1 << bit)):
        seed_generators(seed, torch.device("cpu"))
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    # On CPUs, torch's takes only 32 bits.
    num_compared = 3 if bit < 32 else 2
    assert not set(drawn[0][:num_compared]) & set(drawn[2][:num_compared])


class Drawing:
    """A strategy whose micro-steps do nothing but draw."""

    clips = False

    def __init__(self):
        self.model = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.drawn = []
        self.knows_norm = True

    def hook_gradients(self, _hook):
        return ()

    def micro_step(self, *_arguments, **_options):
        self.drawn.append(draw())
        return torch.zeros(())

    compute = OneByOne.compute

    def gradient_norm(self):
        return torch.zeros(())

    def prepare(self, _loss):
        return

    def apply(self, _scale):
        return


def drawn_by(stub_group, rank, num_ranks):
    """What one rank draws in the step after the third, whatever others have drawn before."""
    plan = BatchPlan(global_batch=8, micro=2, num_ranks=num_ranks)
    strategy = Drawing()
    recipe = Recipe(model=nn.Identity, optimizer=torch.optim.SGD, loss=lambda *_: torch.zeros(()))
    stepper = Stepper(
        strategy,
        recipe,
        stub_group(rank=rank),
        plan,
        seed=1,
        precision=Precision.FP32,
        policy=ScalePolicy(),
    )
    seed_generators(random.SystemRandom().getrandbits(60), torch.device("cpu"))
    loader = StepLoader(
        list(range(16)),
        order=DataOrder(16, 1, True),
        plan=plan,
        rank=rank,
        seed=1,
        start_step=3,
        stop_step=4,
    )
    with loader:
        batch = next(loader)
        stepper.step(lambda _: batch, Vote, Stopwatch())
    return strategy.drawn


def test_a_model_draws_the_same_numbers_in_every_world(stub_group):
    alone = drawn_by(stub_group, 0, 1)
    assert len({number for drawn in alone for number in drawn}) == 12
    assert alone == drawn_by(stub_group, 0, 2) + drawn_by(stub_group, 1, 2)
