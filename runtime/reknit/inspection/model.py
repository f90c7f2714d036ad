"""Building the user's model and optimizer without memory for their tensors."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reknit.job import ModelFactory, OptimizerFactory, ScheduleFactory, unique_parameters
from reknit.pipeline.layers import Layers
from reknit.protocol.inspection import ParameterInfo, StageInfo
from reknit.protocol.settings import PipelineSettings


@dataclass(frozen=True)
class Built:
    """A model with its optimizer, and the mode under which their tensors may be used."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    fake: FakeTensorMode | None
    """None when the factories only work on real tensors."""
    factory: ModelFactory
    """Builds the model once more."""


def build(
    model: ModelFactory, optimizer: OptimizerFactory, schedule: ScheduleFactory | None
) -> Built:
    """Calls the factories as a rank does, on tensors that have shapes but no elements.

    Factories that look at elements (a weight's norm, say) are called again on real tensors; what
    they raise then is their own.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # Whatever goes wrong on them counts only if it happens on real tensors too.
    with suppress(Exception), fake:
        return _build(model, optimizer, schedule, fake)
    return _build(model, optimizer, schedule, None)


def _build(
    model: ModelFactory,
    optimizer: OptimizerFactory,
    schedule: ScheduleFactory | None,
    fake: FakeTensorMode | None,
) -> Built:
    module = model()
    trained = list(unique_parameters(module.parameters()))
    built = Built(module, optimizer(trained), fake, factory=model)
    if schedule is not None:
        schedule(built.optimizer)
    return built


def parameters(built: Built, divided: Collection[str] = ()) -> Iterator[ParameterInfo]:
    """The model's parameters, tied ones once, with the group that updates them.

    Args:
        built: whole.
        divided: names of those that tensor parallelism divides.
    """
    groups = {
        id(parameter): index
        for index, group in enumerate(built.optimizer.param_groups)
        for parameter in group["params"]
    }
    for name, parameter in built.model.named_parameters():
        info = _info(name, parameter, groups.get(id(parameter)))
        yield info.model_copy(update={"divided": True}) if name in divided else info


def buffers(built: Built) -> Iterator[ParameterInfo]:
    """The model's buffers."""
    for name, buffer in built.model.named_buffers():
        yield _info(name, buffer, None)


def stages(built: Built, pipeline: PipelineSettings, num_stages: int) -> tuple[StageInfo, ...]:
    """The stages that the model is cut into; none if it is to stay in one.

    Raises:
        ConfigurationError: the model cannot be cut.
    """
    if num_stages == 1:
        return ()
    layers = Layers.of(built.model)
    parts = layers.cut(num_stages, pipeline.cut)
    trained = {id(p): p for group in built.optimizer.param_groups for p in group["params"]}
    return tuple(
        StageInfo(
            layers=tuple(layers.names[index] for index in part),
            num_elements=sum(
                trained[key].numel()
                for key in {id(p) for index in part for p in layers.modules[index].parameters()}
                if key in trained
            ),
        )
        for part in parts
    )


def _info(name: str, tensor: torch.Tensor, group: int | None) -> ParameterInfo:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return ParameterInfo(name=name, shape=tuple(tensor.shape), dtype=dtype, group=group)
