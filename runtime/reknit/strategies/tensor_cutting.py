"""Cutting the layers of a model as a plan says, and making it whole again."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import torch
from torch import nn

from reknit.cuts import Column, Cut, Row, TensorPlan, Vocabulary
from reknit.errors import ConfigurationError
from reknit.state.intervals import Interval, along
from reknit.strategies.tensor_layers import Axis, forward_of

_SIZES: Final = ("in_features", "out_features", "num_embeddings")


@dataclass(frozen=True, slots=True)
class Division:
    """How one parameter is cut."""

    shape: tuple[int, ...]
    """Of the whole."""
    dimension: int
    blocks: int = 1

    def intervals(self, num_parts: int, part: int) -> Iterator[Interval]:
        """What one rank holds of it, in order."""
        return along(self.shape, self.dimension, num_parts, part, blocks=self.blocks)

    def shape_of_part(self, num_parts: int) -> tuple[int, ...]:
        """What each rank holds has this shape."""
        sides = list(self.shape)
        sides[self.dimension] //= num_parts
        return tuple(sides)

    def part(self, whole: torch.Tensor, num_parts: int, part: int) -> torch.Tensor:
        """A copy of what one rank holds."""
        flat = whole.detach().reshape(-1)
        own = [flat[one.start : one.stop] for one in self.intervals(num_parts, part)]
        return torch.cat(own).view(self.shape_of_part(num_parts))


def cuts_of(model: nn.Module, plan: TensorPlan | None, degree: int) -> dict[str, Cut]:
    """The cut of each module that the plan names, of a model that is still whole.

    Raises:
        ConfigurationError: the plan does not fit the model or the number of ranks.
    """
    if not plan:
        raise ConfigurationError(
            f"job.engine: parallelism.tensor is {degree}, but nothing says which layers are cut; "
            "give tensor_plan, or set tensor to 1"
        )
    modules = dict(model.named_modules())
    found: dict[str, tuple[str, Cut]] = {}
    for pattern, cut in plan.items():
        matching = [name for name in modules if _matches(name, pattern)]
        if not matching:
            raise ConfigurationError(f"job.engine: tensor_plan: the model has no module {pattern}")
        for name in matching:
            if name in found:
                raise ConfigurationError(
                    f"job.engine: tensor_plan: {found[name][0]} and {pattern} both mean the module "
                    f"{name}"
                )
            _check(name, modules[name], cut, degree)
            found[name] = (pattern, cut)
    cuts = {name: cut for name, (_, cut) in found.items()}
    _check_shared(model, cuts)
    return cuts


def divisions(model: nn.Module, cuts: Mapping[str, Cut]) -> dict[str, Division]:
    """How each parameter that is cut is so, by its name; to be asked of a whole model."""
    modules = dict(model.named_modules())
    own = {
        id(parameter): (dimension, blocks)
        for name, cut in cuts.items()
        for parameter, dimension, blocks in _cut_parameters(modules[name], cut)
    }
    return {
        name: Division(tuple(parameter.shape), *own[id(parameter)])
        for name, parameter in model.named_parameters()
        if id(parameter) in own
    }


class CutModel:
    """A model whose layers are cut in place.

    Args:
        model: whole.
        cuts: by name of a module.
        axis: the ranks that each have a part.
    """

    def __init__(self, model: nn.Module, cuts: Mapping[str, Cut], axis: Axis) -> None:
        self.divisions = divisions(model, cuts)
        self._model = model
        self._sizes: list[tuple[nn.Module, str, int]] = []
        self._modules: list[nn.Module] = []
        named = dict(model.named_parameters())
        for name, division in self.divisions.items():
            named[name].data = division.part(named[name], axis.size, axis.place)
        modules = dict(model.named_modules())
        for name, cut in cuts.items():
            module: Any = modules[name]
            for size in _sizes_changed(cut):
                self._sizes.append((module, size, getattr(module, size)))
                setattr(module, size, getattr(module, size) // axis.size)
            module.forward = forward_of(module, cut, axis)
            self._modules.append(module)

    def restore(self) -> None:
        """Makes the model whole; the elements of what was cut are undefined.

        It may have been made whole before, and cut again by another one.
        """
        for module in self._modules:
            vars(module).pop("forward", None)
        for module, name, size in self._sizes:
            setattr(module, name, size)
        for name, parameter in self._model.named_parameters():
            if name in self.divisions:
                parameter.grad = None
                shape = self.divisions[name].shape
                parameter.data = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _check(name: str, module: nn.Module, cut: Cut, degree: int) -> None:
    kind: type[nn.Module] = nn.Embedding if isinstance(cut, Vocabulary) else nn.Linear
    whole = isinstance(module, kind) and type(module).forward is kind.forward
    if not whole or "weight" not in module._parameters:  # noqa: SLF001 - parametrized if not
        raise ConfigurationError(
            f"job.engine: tensor_plan: {type(cut).__name__} cuts a plain {kind.__name__}, but "
            f"{name} is a {type(module).__name__}"
        )
    if isinstance(module, nn.Embedding):
        changed = module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        if changed:
            raise ConfigurationError(
                f"job.engine: tensor_plan: {name} has max_norm, scale_grad_by_freq or sparse, "
                "which need the whole embedding; leave it out of the plan"
            )
    blocks, unit = (cut.blocks, cut.unit) if isinstance(cut, Column) else (1, 1)
    (size,) = (getattr(module, size) for size in _sizes_changed(cut))
    if size % (blocks * unit * degree):
        in_blocks = f" in {blocks} blocks" if blocks > 1 else ""
        in_units = f" in units of {unit}" if unit > 1 else ""
        raise ConfigurationError(
            f"job.engine: tensor_plan: the {size} {_WORDS[type(cut)]} of {name} cannot be divided "
            f"among {degree} ranks{in_blocks}{in_units}; change the model or parallelism.tensor"
        )


_WORDS: Final[Mapping[type, str]] = {Column: "outputs", Row: "inputs", Vocabulary: "rows"}


def _sizes_changed(cut: Cut) -> tuple[str]:
    match cut:
        case Column():
            return ("out_features",)
        case Row():
            return ("in_features",)
        case _:
            return ("num_embeddings",)


def _cut_parameters(module: nn.Module, cut: Cut) -> Iterator[tuple[nn.Parameter, int, int]]:
    """(parameter, dimension, blocks) of what is cut of a module."""
    own: dict[str, Any] = module._parameters  # noqa: SLF001 - without a parent's
    yield own["weight"], int(isinstance(cut, Row)), cut.blocks if isinstance(cut, Column) else 1
    if isinstance(cut, Column) and own["bias"] is not None:
        yield own["bias"], 0, cut.blocks


def _check_shared(model: nn.Module, cuts: Mapping[str, Cut]) -> None:
    """A weight that several modules use must be cut alike in all of them."""
    ways: dict[int, dict[object, str]] = defaultdict(dict)
    for name, module in model.named_modules(remove_duplicate=False):
        cut = cuts.get(name)
        known = {} if cut is None else {id(p): way for p, *way in _cut_parameters(module, cut)}
        for parameter in module._parameters.values():  # noqa: SLF001
            if parameter is not None:
                ways[id(parameter)].setdefault(str(known.get(id(parameter))), name)
    for different in ways.values():
        if len(different) > 1:
            one, other, *_ = different.values()
            raise ConfigurationError(
                f"job.engine: tensor_plan: {one} and {other} share a parameter, but are not cut "
                "alike; a Vocabulary and a Column with gather are"
            )
