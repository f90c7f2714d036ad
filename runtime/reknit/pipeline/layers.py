"""A model as layers that are applied one after the other, and what of it belongs to which stage."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from reknit.errors import ConfigurationError
from reknit.pipeline.cut import by_names, by_weight, ranges


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of a model in the order in which they are applied, by name."""

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Layers":
        """Those of an `nn.Sequential`, or what the model's `pipeline_layers()` returns.

        Raises:
            ConfigurationError: the model cannot be cut.
        """
        own = getattr(model, "pipeline_layers", None)
        if callable(own):
            modules = tuple(own())
        elif isinstance(model, nn.Sequential):
            modules = tuple(model)
        else:
            raise ConfigurationError(
                f"job.engine: the model {type(model).__name__} cannot be cut into stages; make it "
                "an nn.Sequential, or give it a method pipeline_layers() that returns the modules "
                "which, applied one after the other, are its forward"
            )
        names = {id(module): name for name, module in model.named_modules()}
        for module in modules:
            if id(module) not in names:
                raise ConfigurationError(
                    f"job.engine: pipeline_layers() of {type(model).__name__} returns a "
                    f"{type(module).__name__} that is none of the model's modules"
                )
        layers = cls(tuple(names[id(module)] for module in modules), modules)
        layers._check(model)
        return layers

    def cut(self, num_stages: int, first_of_stages: Sequence[str]) -> tuple[range, ...]:
        """The layers of each stage: as named, else so that parameters are spread evenly.

        Raises:
            ConfigurationError: there are fewer layers than stages, or a name is wrong.
        """
        try:
            if first_of_stages:
                starts = by_names(self.names, first_of_stages)
            else:
                starts = by_weight([_num_elements(module) for module in self.modules], num_stages)
        except ValueError as error:
            raise ConfigurationError(f"spec.parallelism.pipeline: {error}") from None
        return ranges(starts, len(self.names))

    def _check(self, model: nn.Module) -> None:
        covered = {id(p) for module in self.modules for p in _tensors(module)}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if id(tensor) not in covered:
                raise ConfigurationError(
                    f"job.engine: {name} belongs to no layer of the pipeline; every parameter and "
                    "buffer must be part of a module that pipeline_layers() returns"
                )
        buffers = Counter(id(buffer) for module in self.modules for buffer in set(module.buffers()))
        for name, buffer in model.named_buffers():
            if buffers[id(buffer)] > 1:
                raise ConfigurationError(
                    f"job.engine: several layers share the buffer {name}, which a pipeline cannot "
                    "keep the same on its stages"
                )


def _tensors(module: nn.Module) -> Iterator[object]:
    yield from module.parameters()
    yield from module.buffers()


def _num_elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stages_of_parameters(
    model: nn.Module, layers: Layers, parts: Sequence[range]
) -> dict[str, tuple[int, ...]]:
    """For each parameter the stages that use it, in order: several if layers share it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[int]] = {name: [] for name in names.values()}
    for stage, part in enumerate(parts):
        used = {id(p) for index in part for p in layers.modules[index].parameters()}
        for key, name in names.items():
            if key in used:
                found[name].append(stage)
    return {name: tuple(stages) for name, stages in found.items()}


def stages_of_buffers(model: nn.Module, layers: Layers, parts: Sequence[range]) -> dict[str, int]:
    """For each buffer the stage whose forward passes change it."""
    stages = {
        id(buffer): stage
        for stage, part in enumerate(parts)
        for index in part
        for buffer in layers.modules[index].buffers()
    }
    return {name: stages[id(buffer)] for name, buffer in model.named_buffers()}
