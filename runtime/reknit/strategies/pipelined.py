"""Pipeline parallelism: every rank holds some stages of the model, all of it in flat masters.

A rank computes its stages for all micro-batches of its pipeline, in the order of a schedule. Ranks
with the same stages and other micro-batches, along the data axis, add up their gradients once per
step. The parameters of a rank are views into one flat master per parameter group of the optimizer;
so the update is one step without communication, and copies of a rank's masters can follow it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from reknit.comm.group import RankGroup
from reknit.errors import ConfigurationError
from reknit.inspection.optimizer import can_shadow, probe
from reknit.job import Loss
from reknit.layout import Precision
from reknit.mesh import Axis, Coordinates
from reknit.pipeline.executor import Executor
from reknit.pipeline.layers import Layers, stages_of_buffers, stages_of_parameters
from reknit.pipeline.schedule import actions
from reknit.protocol.settings import PipelineSettings
from reknit.state.description import LocalState, StateSource, parameter_of, share
from reknit.state.optimizer import step
from reknit.state.shard import Shard
from reknit.strategies.base import (
    Built,
    Pass,
    Recipe,
    build,
    gradient_norm,
    persistent_buffers,
)
from reknit.strategies.placement import Partitioned, Placement, shapes_of
from reknit.strategies.stage_placement import StageMaster, ranks_of
from reknit.trainer.timing import Stopwatch


class Pipelined(Partitioned):
    """A model of which every rank holds the parameters of its stages.

    Masters are FP32; forward and backward run under autocast if precision is lower. Buffers and
    parameters that are not trained stay whole on every rank.
    """

    def __init__(
        self,
        recipe: Recipe,
        group: RankGroup,
        *,
        seed: int,
        precision: Precision,
        pipeline: PipelineSettings,
        built: Built | None = None,
        installs: bool = False,
    ) -> None:
        built = built or build(recipe, seed=seed, device=group.device)
        if not installs:
            _check(recipe, built)
            group.broadcast([*built.model.parameters(), *built.model.buffers()])
        self.is_shadowable = can_shadow(recipe.optimizer, list(built.parameters))
        self.model = built.model
        self.optimizer = built.optimizer
        self._recipe = recipe
        self._built = built
        self._group = group
        self._pipeline = pipeline
        self._due = False
        num_ranks = group.mesh.num_stages
        num_stages = num_ranks * pipeline.stages_per_rank
        layers = Layers.of(built.model)
        parts = layers.cut(num_stages, pipeline.cut)
        self._holders = ranks_of(stages_of_parameters(built.model, layers, parts), num_ranks)
        self._buffer_stages = {
            name: stage % num_ranks
            for name, stage in stages_of_buffers(built.model, layers, parts).items()
        }
        self._executor = Executor(
            {
                stage: [layers.modules[index] for index in parts[stage]]
                for stage in range(group.place.stage, num_stages, num_ranks)
            },
            num_stages,
            group.along(Axis.PIPELINE),
            built.model,
            recipe.loss,
            precision,
        )
        self._shapes = shapes_of(built.model)
        self._views: dict[str, tuple[nn.Parameter, torch.Tensor]] = {}
        """This rank's trained parameters, and where their gradients are added up."""
        self._make_masters()

    def compute(
        self,
        passes: Sequence[Pass],
        stopwatch: Stopwatch,
        done: Callable[[int, torch.Tensor], None],
    ) -> None:
        """All micro-batches in the order of the schedule, and the reduction along the data axis."""
        self._due = False
        for gradient in self._gradients:
            gradient.zero_()
        for parameter, gradient in self._views.values():
            parameter.grad = gradient
        mine = actions(
            self._pipeline.schedule,
            self._group.place.stage,
            self._group.mesh.num_stages,
            self._pipeline.stages_per_rank,
            len(passes),
        )
        self._executor.run(mine, passes, stopwatch, done)
        with stopwatch.phase("communication"):
            for gradient in self._gradients:
                self._group.along(Axis.DATA).all_reduce(gradient)
            self._add_shared()
        self._due = True

    def share_buffers(self, group: RankGroup) -> None:
        """Each buffer from the first rank with the stage whose forward passes have changed it."""
        present = persistent_buffers(self.model)
        for stage in range(group.mesh.num_stages):
            source = group.mesh.rank(Coordinates(data=0, stage=stage, tensor=0))
            own = [buffer for name, buffer in present.items() if self._buffer_stages[name] == stage]
            group.broadcast(own, source)

    def hook_gradients(self, hook: Callable[[torch.Tensor], None]) -> Sequence[RemovableHandle]:
        """Those of this rank's stages."""
        return [
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]
            for parameter, _ in self._views.values()
        ]

    def gradient_norm(self) -> torch.Tensor:
        """Of this rank's part of what no earlier stage counts; replicas divide it."""
        data, stage = self._group.along(Axis.DATA), self._group.place.stage
        counted = [
            gradient
            for name, (_, gradient) in self._views.items()
            if self._holders[name][0] == stage
        ]
        return gradient_norm(counted[data.rank :: data.world_size], self._group.device)

    def reduced(self) -> tuple[torch.Tensor, ...]:
        """As it was added up; zero in the padding, and where nothing was used."""
        return self._gradients

    def multiplier(self, factor: float) -> float:
        """Gradients are added, not averaged."""
        return factor

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer on this rank's masters, which are the weights, too."""
        self._update(factor)
        self.updated()

    def discard(self) -> None:
        """Drops the gradient, on this rank alone."""
        self._due = False
        for parameter, _ in self._views.values():
            parameter.grad = None

    def describe(self) -> LocalState:
        """This rank's stages; replicas divide the writing, and one writes what stages share."""
        layout = self.layout_of(self.shard)
        state = layout.describe(self._group.rank, self._group.world_size)
        data, stage = self._group.along(Axis.DATA), self._group.place.stage
        own = [
            piece
            for piece in state.written
            if piece.name not in layout.whole
            and self._holders[parameter_of(piece.name)][0] == stage
        ]
        common = [piece for piece in state.written if piece.name in layout.whole]
        state.written = [*share(own, data.world_size, data.rank), *common]
        return state

    def install(self, source: StateSource) -> None:
        """Reads this rank's stages."""
        self.layout_of(self.shard).install(source)

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """Through all stages; ranks without the last one return 0."""
        return self._executor.evaluate(data, loss)

    def close(self) -> None:
        """Nothing is outside of its own objects."""

    def parts(self) -> Built:
        """The parameters of other stages have their shapes again."""
        for name, parameter in self.model.named_parameters():
            if parameter.shape != self._shapes[name]:
                parameter.data = torch.empty(
                    self._shapes[name], dtype=parameter.dtype, device=parameter.device
                )
        return super().parts()

    def _make_masters(self) -> None:
        """A flat tensor for each parameter group, which the optimizer is given instead."""
        group, stage = self._group, self._group.place.stage
        named = dict(self.model.named_parameters())
        names = {id(parameter): name for name, parameter in named.items()}
        masters, divided, gradients = [], [], []
        for parameter_group in self.optimizer.param_groups:
            own = tuple(names[id(parameter)] for parameter in parameter_group["params"])
            master = StageMaster(
                own,
                tuple(self._shapes[name] for name in own),
                tuple(self._holders[name] for name in own),
                group.mesh,
            )
            flat = torch.zeros(master.size, device=group.device)
            gradient = torch.zeros_like(flat)
            for place in master.placed(master.size, group.world_size, group.rank):
                name = own[place.index]
                room = slice(place.offset, place.offset + len(place.interval))
                flat[room].copy_(named[name].detach().reshape(-1))
                shape = self._shapes[name]
                named[name].data = flat[room].view(shape)
                self._views[name] = (named[name], gradient[room].view(shape))
            for name in own:
                named[name].grad = None
                if stage not in self._holders[name]:
                    named[name].data = torch.empty(0, device=group.device)
            parameter_group["params"] = [flat.requires_grad_()]
            masters.append(flat)
            divided.append(master)
            gradients.append(gradient)
        self._gradients = tuple(gradients)
        self._placement = Placement(
            self.model, group.world_size, tuple(divided), self._shapes, False
        )
        self.shard = Shard(group.rank, tuple(masters), self.optimizer)

    def _add_shared(self) -> None:
        """Adds up the gradients of parameters that several stages use, in the stages' order.

        After the reduction along the data axis, so that the same numbers are added everywhere.
        """
        pipeline = self._group.along(Axis.PIPELINE)
        for tag, (name, holders) in enumerate(self._shared(), start=1):
            _, gradient = self._views[name]
            own = gradient.clone()
            others = [holder for holder in holders if holder != pipeline.rank]
            works = [pipeline.send(own, holder, tag) for holder in others]
            received = {holder: torch.empty_like(own) for holder in others}
            for holder in others:
                pipeline.receive(received[holder], holder, tag)
            for work in works:
                work.wait()
            received[pipeline.rank] = own
            gradient.zero_()
            for holder in holders:
                gradient += received[holder]

    def _shared(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in self._views:
            holders = self._holders[name]
            if len(holders) > 1:
                yield name, holders

    def _update(self, factor: float) -> None:
        step(self.optimizer, self.shard.masters, self._gradients, self.multiplier(factor))
        self.discard()


def _check(recipe: Recipe, built: Built) -> None:
    for name, parameter in built.model.named_parameters():
        if parameter.dtype is not torch.float32:
            raise ConfigurationError(
                f"job.engine: a pipeline keeps masters in FP32, but {name} is {parameter.dtype}; "
                "build the model in FP32 and choose spec.precision"
            )
    if not probe(recipe.optimizer, list(built.parameters)).elementwise:
        raise ConfigurationError(
            f"job.engine: the optimizer {type(built.optimizer).__name__} needs whole tensors, "
            "which a pipeline lays out one after the other; set spec.parallelism.pipeline.stages "
            "to 1 or take an elementwise one, e.g. AdamW"
        )
    if any(not group["params"] for group in built.optimizer.param_groups):
        raise ConfigurationError(
            "job.engine: the optimizer has a parameter group without parameters, which a pipeline "
            "does not allow; leave it out"
        )
