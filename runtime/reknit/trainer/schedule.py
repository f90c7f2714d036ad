"""The learning-rate schedule: a function of the number of applied updates."""

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from reknit.errors import ConfigurationError
from reknit.job import ScheduleFactory


class Schedule:
    """A schedule that advances once per applied update.

    It is never stored: to resume it is built anew and advanced as often as before, which gives the
    same bits for every class of schedule, whatever it keeps.
    """

    def __init__(self, factory: ScheduleFactory | None, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._scheduler: LRScheduler | None = None if factory is None else factory(optimizer)
        if isinstance(self._scheduler, ReduceLROnPlateau):
            raise ConfigurationError(
                "job.engine: ReduceLROnPlateau is not supported, as it depends on more than the "
                "number of updates; take another schedule"
            )

    def move_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Goes on with another optimizer of the same recipe, in the place of the present one."""
        if optimizer is self._optimizer:
            return
        pairs = zip(optimizer.param_groups, self._optimizer.param_groups, strict=True)
        for group, old in pairs:
            group.update({key: value for key, value in old.items() if key != "params"})
        optimizer._opt_called = True  # type: ignore[attr-defined]  # noqa: SLF001 - as in replay
        # The wrapped method refers to its optimizer, whose state would stay until Python looks for
        # cycles.
        vars(self._optimizer).pop("step", None)
        self._optimizer = optimizer
        if self._scheduler is not None:
            _repoint(self._scheduler, optimizer)

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group, for the next update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def advance(self) -> None:
        """To be called after each applied update."""
        if self._scheduler is not None:
            self._scheduler.step()

    def replay(self, num_updates: int) -> None:
        """Advances a new schedule to where `num_updates` applied updates lead."""
        # Torch warns about a schedule that advances before the optimizer: here it has, elsewhere.
        self._optimizer._opt_called = True  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        for _ in range(num_updates):
            self.advance()


def _repoint(scheduler: LRScheduler, optimizer: torch.optim.Optimizer) -> None:
    """Gives a schedule, and those that it is made of, another optimizer to set."""
    scheduler.optimizer = optimizer
    for value in vars(scheduler).values():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, LRScheduler):
                _repoint(part, optimizer)
