"""Carries out a rank's list of actions: computes its stages, and talks to the neighbouring ones.

torch.distributed.pipelining has schedules of its own. Here the lists are carried out by ourselves
because a step must be able to end anywhere: between two actions nothing is changed but gradients,
every wait is one that severing the connections ends, and each micro-batch has its own seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reknit.comm.collectives import Collectives
from reknit.errors import ConfigurationError
from reknit.job import Loss
from reknit.layout import Precision
from reknit.pipeline.entrance import Called, CutModel
from reknit.pipeline.schedule import Action, Kind
from reknit.pipeline.transport import Route, Transport, parts_of, set_generator_state
from reknit.strategies.base import LossModule, Pass, autocast
from reknit.trainer.timing import Stopwatch


@dataclass(slots=True)
class _Held:
    """What the backward pass of a micro-batch on a stage needs of its forward pass."""

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]


class Executor:
    """One rank's stages.

    Args:
        stages: the layers of each of this rank's stages.
        num_stages: of the whole pipeline.
        group: its ranks.
        whole: the user's model.
        loss: the training loss.
        precision: the number format of forward and backward.
    """

    def __init__(
        self,
        stages: Mapping[int, Sequence[nn.Module]],
        num_stages: int,
        group: Collectives,
        whole: nn.Module,
        loss: Loss,
        precision: Precision,
    ) -> None:
        self._stages = stages
        self._last = num_stages - 1
        self._group = group
        self._precision = precision
        self._cut_model = CutModel(whole)
        self._loss_module = LossModule(self._cut_model, loss, group.device, precision)

    def run(
        self,
        actions: Sequence[Action],
        passes: Sequence[Pass],
        stopwatch: Stopwatch,
        done: Callable[[int, torch.Tensor], None],
    ) -> None:
        """Forward and backward passes in the order of the list.

        Args:
            actions: this rank's.
            passes: the pipeline's micro-batches.
            stopwatch: gets the times of `forward` and `backward`; what is waited for the other
                stages counts as `communication`.
            done: is told the number of each micro-batch whose backward pass on a stage has ended,
                and its mean loss, 0 but on the last stage.
        """
        transport = Transport(self._group, lambda seconds: stopwatch.add("communication", seconds))
        held: dict[tuple[int, int], _Held] = {}
        for action in actions:
            place = (action.stage, action.micro_batch)
            if action.kind is Kind.FORWARD:
                held[place] = self._forward(action, passes, transport, stopwatch)
            else:
                result = held.pop(place)
                factor = passes[action.micro_batch].factor
                self._backward(action, result, factor, transport, stopwatch)
                is_loss = action.stage == self._last
                loss = result.outputs[0].detach() if is_loss else torch.zeros(())
                done(action.micro_batch, loss)
        transport.finish()

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """The mean of `loss` on one micro-batch; 0 on ranks without the last stage."""
        transport = Transport(self._group, lambda _: None)
        result = torch.zeros((), device=self._group.device)
        for stage in sorted(self._stages):
            inputs, state = self._inputs(Action(Kind.FORWARD, stage, 0), transport)
            output = self._compute(stage, inputs, state, lambda: data, loss)
            if stage == self._last:
                result = output
            else:
                transport.send_activations(output, self._route(Kind.FORWARD, stage + 1, 0))
        transport.finish()
        return result

    def _forward(
        self, action: Action, passes: Sequence[Pass], transport: Transport, stopwatch: Stopwatch
    ) -> _Held:
        inputs, state = self._inputs(action, transport)
        with stopwatch.phase("forward"):
            current = passes[action.micro_batch]
            current.seed()
            output = self._compute(action.stage, inputs, state, current.data, None)
        if action.stage < self._last:
            route = self._route(Kind.FORWARD, action.stage + 1, action.micro_batch)
            transport.send_activations(output, route)
        return _Held(() if inputs is None else parts_of(inputs), parts_of(output))

    def _backward(
        self,
        action: Action,
        held: _Held,
        factor: float,
        transport: Transport,
        stopwatch: Stopwatch,
    ) -> None:
        stage, micro_batch = action.stage, action.micro_batch
        with_gradient = [tensor for tensor in held.outputs if tensor.requires_grad]
        gradients: list[torch.Tensor] | None = None
        if stage == self._last:
            with_gradient = [tensor * factor for tensor in with_gradient]
        else:
            # From the next stage, whose rank need not be another one's neighbour in numbers.
            route = self._route(Kind.BACKWARD, stage, micro_batch, of=stage + 1)
            gradients = transport.receive_gradients(with_gradient, route)
        with stopwatch.phase("backward"):
            if with_gradient:
                torch.autograd.backward(with_gradient, gradients)
        if stage > 0:
            route = self._route(Kind.BACKWARD, stage - 1, micro_batch)
            transport.send_gradients(held.inputs, route)

    def _inputs(
        self, action: Action, transport: Transport
    ) -> tuple[torch.Tensor | tuple[torch.Tensor, ...] | None, torch.Tensor | None]:
        """What comes from the stage before, and where its generators stood; None on the first."""
        if action.stage == 0:
            return None, None
        route = self._route(Kind.FORWARD, action.stage, action.micro_batch, of=action.stage - 1)
        return transport.receive_activations(route)

    def _compute(
        self,
        stage: int,
        inputs: torch.Tensor | tuple[torch.Tensor, ...] | None,
        state: torch.Tensor | None,
        data: Callable[[], Any],
        loss: Loss | None,
    ) -> Any:
        """A stage's output, on the last one the loss; `loss` replaces the training loss."""
        if stage == 0:
            arguments, options = self._arguments(data(), loss)
            return self._apply(stage, arguments, options)
        assert state is not None

        def answer() -> Any:
            # Generators go on from where the stages before have left them.
            set_generator_state(state, self._group.device)
            return self._apply(stage, (_changeable(inputs),), {})

        if stage < self._last:
            return answer()
        self._cut_model.begin(answer)
        value = self._loss_module(data(), loss)
        if not self._cut_model.was_called:
            raise _not_called()
        return value

    def _arguments(self, data: Any, loss: Loss | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the loss calls the model with."""
        self._cut_model.begin(None)
        try:
            self._loss_module(data, loss)
        except Called as called:
            return called.arguments, called.options
        raise _not_called()

    def _apply(self, stage: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        first, *others = self._stages[stage]
        with autocast(self._group.device, self._precision):
            output = first(*arguments, **options)
            for layer in others:
                output = layer(output)
        return output

    def _route(self, kind: Kind, to: int, micro_batch: int, of: int | None = None) -> Route:
        """The way to stage `to`, or from stage `of` to it: who is at the other end, and the tag."""
        other = to if of is None else of
        tag = (micro_batch * (self._last + 1) + to) * len(Kind) + kind.value
        return Route(other % self._group.world_size, tag)


def _not_called() -> ConfigurationError:
    return ConfigurationError(
        "job.engine: the loss does not call the model, which a pipeline needs to know what its "
        "first stage is given; write it as loss(model, micro_batch)"
    )


def _changeable(inputs: torch.Tensor | tuple[torch.Tensor, ...] | None) -> Any:
    """Inputs that a layer may change in place, which it must not with leaves of a graph."""
    if isinstance(inputs, tuple):
        return tuple(_changeable(part) for part in inputs)
    assert inputs is not None
    return inputs.clone() if inputs.requires_grad else inputs
