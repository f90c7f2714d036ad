"""The learning rate of a range: a function of the number of its updates."""

from typing import Any

import torch

from reknit.job import ScheduleFactory
from reknit.trainer.schedule import Schedule


class Pace:
    """A schedule that can be put to any number of updates.

    Args:
        factory: makes the schedule; None: the rate stays.
        optimizer: whose hyperparameters are set; new, as its factory has made it.
    """

    def __init__(self, factory: ScheduleFactory | None, optimizer: torch.optim.Optimizer) -> None:
        self.num_updates = 0
        self._factory, self._optimizer = factory, optimizer
        self._initial = [_hyperparameters(group) for group in optimizer.param_groups]
        self._schedule = Schedule(factory, optimizer)

    def advance(self) -> None:
        """To be called after each update."""
        self.num_updates += 1
        self._schedule.advance()

    def restart(self, num_updates: int) -> None:
        """Puts the rate to what it is after so many updates."""
        self.num_updates = num_updates
        if self._factory is None:
            return
        for group, initial in zip(self._optimizer.param_groups, self._initial, strict=True):
            for key in group.keys() - initial.keys() - {"params"}:
                del group[key]
            group.update(initial)
        self._schedule = Schedule(self._factory, self._optimizer)
        self._schedule.replay(num_updates)


def _hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.clone() if isinstance(value, torch.Tensor) else value
        for key, value in group.items()
        if key != "params"
    }
