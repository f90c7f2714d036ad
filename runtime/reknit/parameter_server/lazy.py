"""A table of which the optimizer sees only the rows that have a gradient.

Any elementwise optimizer then works on tables: for a step, the touched rows and their state stand
in the place of the whole ones. Moments and weight decay of other rows rest meanwhile, as in
torch.optim.SparseAdam; the count of steps is the table's.
"""

import torch
from torch import nn

from reknit.state import optimizer as optimizer_state
from reknit.state.intervals import Interval


class LazyTable:
    """A run of a table's rows with its place in an optimizer.

    Args:
        parameter: the rows, shape (number of rows, width).
        rows: which ones they are; indices count in the whole table.
        optimizer: has the parameter in one of its groups.
    """

    def __init__(
        self, parameter: nn.Parameter, rows: Interval, optimizer: torch.optim.Optimizer
    ) -> None:
        self.parameter, self.rows = parameter, rows
        self.width = parameter.shape[1]
        self._optimizer = optimizer
        self._whole = parameter.data
        self._states: dict[str, torch.Tensor] = {}
        """The whole state, while only rows of it are in the optimizer."""
        self._local = torch.empty(0, dtype=torch.int64)

    def values(self, rows: torch.Tensor) -> torch.Tensor:
        """Copies of rows."""
        return self._whole[rows - self.rows.start]

    def begin(self, rows: torch.Tensor, gradient: torch.Tensor) -> None:
        """Lets the optimizer's next step work on these rows alone; indices ascend."""
        if not self._optimizer.state.get(self.parameter):
            self._states = self._untouched()
        else:
            self._states = optimizer_state.tensors(self._optimizer, self.parameter)
        self._local = rows - self.rows.start
        known = self._optimizer.state.get(self.parameter, {})
        for key, whole in self._states.items():
            if key in known:
                known[key] = whole[self._local]
        self.parameter.data = self._whole[self._local]
        self.parameter.grad = gradient

    def end(self) -> None:
        """Puts the rows back after the step."""
        self._whole[self._local] = self.parameter.data
        self.parameter.grad = None
        self.parameter.data = self._whole
        state = self._optimizer.state.get(self.parameter, {})
        for key, whole in self._states.items():
            whole[self._local] = state[key]
            state[key] = whole
        self._states = {}

    def misfit(
        self, rows: torch.Tensor | None, values: torch.Tensor | None, *, needs_values: bool
    ) -> str | None:
        """What is wrong with rows of a gradient or a wish; None if they fit."""
        if rows is None:
            return None if values is None else "values without rows"
        if rows.dtype != torch.int64 or rows.ndim != 1:
            return "rows are no int64 vector"
        if len(rows) and not bool((rows[1:] > rows[:-1]).all()):
            return "rows do not ascend"
        if len(rows) and not (self.rows.start <= int(rows[0]) and int(rows[-1]) < self.rows.stop):
            return f"rows outside of {self.rows.start}..{self.rows.stop}"
        if needs_values and (values is None or tuple(values.shape) != (len(rows), self.width)):
            return "values do not fit the rows"
        return None

    def _untouched(self) -> dict[str, torch.Tensor]:
        """The state of rows that have had no gradient, as it is after a step without effect."""
        others = {p: p.grad for group in self._optimizer.param_groups for p in group["params"]}
        for other in others:
            other.grad = None
        self.parameter.data = torch.zeros(1, self.width)
        self.parameter.grad = torch.zeros(1, self.width)
        self._optimizer.step()
        self.parameter.grad = None
        found = {
            key: value.expand(len(self.rows), self.width).clone()
            for key, value in optimizer_state.tensors(self._optimizer, self.parameter).items()
        }
        # The first step on real rows makes everything anew, the count of steps included.
        self._optimizer.state.pop(self.parameter, None)
        self.parameter.data = self._whole
        for other, gradient in others.items():
            other.grad = gradient
        return found
