"""The tensors of one copy of a range: parameters, optimizer and its state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import torch
from torch import nn

from reknit.errors import ConfigurationError
from reknit.inspection.optimizer import probe
from reknit.job import OptimizerFactory, ScheduleFactory
from reknit.parameter_server.lazy import LazyTable
from reknit.parameter_server.pace import Pace
from reknit.parameter_server.plan import ParameterSpec, Plan
from reknit.parameter_server.recording import Part, Recording, record
from reknit.parameter_server.rows import Rows, combine, overlay
from reknit.protocol.base import Json
from reknit.state import optimizer as optimizer_state
from reknit.state.description import StateSource
from reknit.state.intervals import Interval, Placed
from reknit.state.layout import Holder, StateLayout

Content: TypeAlias = Mapping[str, torch.Tensor]
"""Tensors by name, as they travel.

A gradient: `dense`, the range's stretch; for table i `rows/i`, ascending indices in the table, and
`values/i`. A wish: `dense`, empty, and `rows/i`. Weights: `dense` and `values/i`.
"""
Read: TypeAlias = Callable[[str, Interval], torch.Tensor]
"""read(parameter, elements) -> a flat tensor with their initial values."""
DENSE: Final = "dense"


class RangeTensors:
    """What the actions of a copy work on.

    Args:
        plan: the model.
        number: which range of it this is.
        optimizer: called with a parameter for each of the model's, in order and with as many
            dimensions. It holds what of it lies in this range, maybe nothing.
        keeps_previous: whether the version before the present one can be asked for.
        schedule: sets the learning rate by the number of updates.

    Raises:
        ConfigurationError: the optimizer does not work element by element.
    """

    def __init__(
        self,
        plan: Plan,
        number: int,
        optimizer: OptimizerFactory,
        *,
        keeps_previous: bool,
        schedule: ScheduleFactory | None = None,
    ) -> None:
        self._plan, self._keeps_previous = plan, keeps_previous
        self._range = plan.ranges[number]
        self._flat = torch.zeros(len(self._range.stretch))
        self._total = torch.empty_like(self._flat)
        placed = {piece.index: piece for piece in self._range.dense}
        rows = {table.index: table for table in self._range.tables}
        self._parameters: list[nn.Parameter] = []
        self._pieces: list[tuple[nn.Parameter, Placed]] = []
        for index, spec in enumerate(plan.specs):
            if index in placed:
                piece = placed[index]
                part = self._flat[piece.offset : piece.offset + len(piece.interval)]
                # As many dimensions as the whole: factories sort parameters by them.
                shape = (-1, *(1,) * (len(spec.shape) - 1)) if spec.shape else ()
                parameter = nn.Parameter(part.view(shape))
                self._pieces.append((parameter, piece))
            else:
                width = rows[index].width if index in rows else 1
                length = len(rows[index].rows) if index in rows else 0
                shape = (length, width, *(1,) * (len(spec.shape) - 2))[: max(1, len(spec.shape))]
                parameter = nn.Parameter(torch.zeros(shape))
            self._parameters.append(parameter)
        check_optimizer(optimizer, plan.specs)
        self.optimizer = optimizer(list(self._parameters))
        self._pace = Pace(schedule, self.optimizer)
        self._tables = {
            index: LazyTable(self._parameters[index], table.rows, self.optimizer)
            for index, table in rows.items()
        }
        self._published: torch.Tensor | None = None
        self._previous: torch.Tensor | None = None
        self._undo: dict[int, Rows] = {}

    def read(self, read: Read) -> None:
        """Takes initial values; the optimizer begins anew."""
        self.refresh()
        self.optimizer.state.clear()
        self._pace.restart(0)
        with torch.no_grad():
            for parameter, piece in self._pieces:
                name = self._plan.specs[piece.index].name
                parameter.view(-1).copy_(read(name, piece.interval))
            for index, table in self._tables.items():
                start, stop = table.rows.start * table.width, table.rows.stop * table.width
                values = read(self._plan.specs[index].name, Interval(start, stop))
                table.parameter.view(-1).copy_(values)

    def apply(self, gradients: Sequence[Content]) -> None:
        """One step of the optimizer with the sum of the gradients, added in their order."""
        if self._keeps_previous:
            self._previous = self._publish()
            self._undo = {}
        self._published = None
        if len(self._total):
            self._total.copy_(gradients[0][DENSE])
            for gradient in gradients[1:]:
                self._total.add_(gradient[DENSE])
            for parameter, piece in self._pieces:
                part = self._total[piece.offset : piece.offset + len(piece.interval)]
                parameter.grad = part.view(parameter.shape)
        touched = []
        for index, table in self._tables.items():
            named = (f"rows/{index}", f"values/{index}")
            parts = [(g[named[0]], g[named[1]]) for g in gradients if named[0] in g]
            if any(len(rows) for rows, _ in parts):
                summed = combine(parts)
                if self._keeps_previous:
                    self._undo[index] = (summed[0], table.values(summed[0]))
                table.begin(*summed)
                touched.append(table)
        self.optimizer.step()
        self._pace.advance()
        for table in touched:
            table.end()
        for parameter, _ in self._pieces:
            parameter.grad = None

    def weights(self, wish: Content, *, previous: bool) -> dict[str, torch.Tensor]:
        """What a pull asks for, in tensors that nothing changes any more."""
        found = {}
        if DENSE in wish:
            dense = self._previous if previous else self._publish()
            assert dense is not None
            found[DENSE] = dense
        for index, table in self._tables.items():
            rows = wish.get(f"rows/{index}")
            if rows is not None:
                values = table.values(rows)
                if previous and index in self._undo:
                    overlay(values, rows, self._undo[index])
                found[f"values/{index}"] = values
        return found

    def misfit(self, content: Content, *, is_gradient: bool) -> str | None:
        """What is wrong with a gradient or a wish; None if it fits."""
        expected = {DENSE} | {f"rows/{i}" for i in self._tables}
        if is_gradient:
            expected |= {f"values/{i}" for i in self._tables}
            if len(self._flat) and DENSE not in content:
                return "the dense gradient is missing"
        if unknown := sorted(content.keys() - expected):
            return f"this range has no {unknown[0]}"
        dense = content.get(DENSE)
        if dense is not None:
            wanted = (len(self._flat) if is_gradient else 0,)
            if tuple(dense.shape) != wanted or not dense.is_floating_point():
                return f"dense has shape {tuple(dense.shape)} instead of {wanted}"
        for index, table in self._tables.items():
            rows, values = content.get(f"rows/{index}"), content.get(f"values/{index}")
            problem = table.misfit(rows, values, needs_values=is_gradient)
            if problem is not None:
                return f"table {index}: {problem}"
        return None

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, Json]]:
        """Copies of all tensors by name, and the optimizer's single numbers."""
        found = {name: tensor.clone() for name, tensor in self._all()}
        for index, (rows, values) in self._undo.items():
            found |= {f"undo/{index}/rows": rows, f"undo/{index}/values": values}
        if self._previous is not None:
            found["previous"] = self._previous
        numbers = optimizer_state.scalars(self.optimizer, self._named())
        return found, {"optimizer": numbers, "updates": self._pace.num_updates}

    def install(self, tensors: Content, scalars: Mapping[str, Json]) -> None:
        """Takes over what `snapshot` of another copy has returned.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: one has another shape.
        """
        self._flat.copy_(tensors[DENSE])
        for index, table in self._tables.items():
            table.parameter.detach().copy_(tensors[f"table/{index}"])
        for index, parameter in enumerate(self._parameters):
            state = optimizer_state.read_scalars(scalars.get("optimizer"), (str(index),))
            prefix = f"optimizer/{index}/"
            for name, value in tensors.items():
                if name.startswith(prefix):
                    state[name.removeprefix(prefix)] = value.clone()
            optimizer_state.replace(self.optimizer, parameter, state)
        updates = scalars["updates"]
        assert isinstance(updates, int)
        self._pace.restart(updates)
        self._previous, self._published, self._undo = tensors.get("previous"), None, {}
        for index in self._tables:
            if (rows := tensors.get(f"undo/{index}/rows")) is not None:
                self._undo[index] = (rows, tensors[f"undo/{index}/values"])

    def layout(self) -> StateLayout:
        """The same in the words of the description of state, for checkpoints.

        A checkpoint holds one version, so the previous one is not part of it. After an installation
        `refresh` is to be called.
        """
        placed = {piece.index: piece.interval for _, piece in self._pieces}
        for index, table in self._tables.items():
            placed[index] = Interval(table.rows.start * table.width, table.rows.stop * table.width)
        holders = [
            Holder(
                parameter,
                (spec.name,),
                (Placed(0, placed[index], 0),) if index in placed else (),
            )
            for index, (parameter, spec) in enumerate(
                zip(self._parameters, self._plan.specs, strict=True)
            )
        ]
        shapes = {spec.name: spec.shape for spec in self._plan.specs}
        return StateLayout(self.optimizer, shapes, tuple(holders), replicated=False)

    def describe(self, *, whole: bool) -> Recording:
        """What a checkpoint holds of this range, in copies; without `whole` no tensors."""
        return record(self.layout(), whole=whole)

    def restore(self, source: StateSource) -> None:
        """Takes over this range's part of a checkpoint.

        Raises:
            CheckpointMismatchError: it is that of another model or optimizer.
        """
        names = {spec.name for spec in self._plan.specs}
        self.layout().install(Part(source, lambda name: name.split("/")[-1] in names))
        updates = source.scalars["updates"]
        assert isinstance(updates, int)
        self._pace.restart(updates)
        self.refresh()

    def refresh(self) -> None:
        """Forgets what was made of values that have been written over."""
        self._previous, self._published, self._undo = None, None, {}

    def _named(self) -> list[tuple[torch.Tensor, Sequence[str]]]:
        return [(parameter, (str(i),)) for i, parameter in enumerate(self._parameters)]

    def _all(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield DENSE, self._flat
        for index, table in self._tables.items():
            yield f"table/{index}", table.parameter.detach()
        for index, parameter in enumerate(self._parameters):
            for key, value in optimizer_state.tensors(self.optimizer, parameter).items():
                yield f"optimizer/{index}/{key}", value

    def _publish(self) -> torch.Tensor:
        """A copy that stays as it is while it is being sent."""
        if self._published is None:
            self._published = self._flat.clone()
        return self._published


def check_optimizer(factory: OptimizerFactory, specs: Sequence[ParameterSpec]) -> None:
    """Lets the factory make an optimizer for parameters like these, and looks at it.

    Raises:
        ConfigurationError: it does not work element by element.
    """
    whole = [nn.Parameter(torch.empty(spec.shape, device="meta")) for spec in specs]
    made = factory(list(whole))
    refused = isinstance(made, torch.optim.LBFGS | torch.optim.SparseAdam)
    if refused or not probe(factory, whole).elementwise:
        raise ConfigurationError(
            "parameter servers need an optimizer that works element by element, which "
            f"{type(made).__name__} does not; take another one, e.g. AdamW"
        )
