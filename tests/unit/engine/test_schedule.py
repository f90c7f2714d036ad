import pytest
import torch
from torch.optim import lr_scheduler

from reknit.errors import ConfigurationError
from reknit.trainer.schedule import Schedule

FACTORIES = {
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "steps": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 4]),
    "cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=20),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, total_iters=3),
            lr_scheduler.CosineAnnealingLR(optimizer, 10),
        ],
        [3],
    ),
}


def make_optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_a_replayed_schedule_goes_on_with_the_same_bits(factory):
    whole = make_optimizer()
    schedule = Schedule(factory, whole)
    values = []
    for _ in range(9):
        values.append((schedule.learning_rate, whole.param_groups[0]["momentum"]))
        whole.step()
        schedule.advance()
    resumed = make_optimizer()
    later = Schedule(factory, resumed)
    later.replay(5)
    found = []
    for _ in range(4):
        found.append((later.learning_rate, resumed.param_groups[0]["momentum"]))
        resumed.step()
        later.advance()
    assert found == values[5:]


def test_without_a_schedule_the_rate_is_the_optimizer_s():
    schedule = Schedule(None, make_optimizer())
    schedule.advance()
    schedule.replay(3)
    assert schedule.learning_rate == 0.1


def test_a_schedule_that_looks_at_the_loss_is_refused():
    with pytest.raises(ConfigurationError, match="ReduceLROnPlateau is not supported"):
        Schedule(lr_scheduler.ReduceLROnPlateau, make_optimizer())
