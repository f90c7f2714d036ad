"""Which modules FSDP2 shards as units, and how a model is made whole again afterwards.

A unit's parameters are gathered together, right before its forward or backward pass. FSDP2 has no
way back; but the model is the user's object, and outlives the generation that it was sharded in.
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch import nn
from torch.distributed import _composable_state

from reknit.strategies.footprint import Footprint

_LISTS: Final = (nn.ModuleList, nn.Sequential)


def units(model: nn.Module) -> tuple[nn.Module, ...]:
    """The outermost modules that stand in a row with others: a transformer's blocks, say.

    Those that share a parameter with what is outside of them are left to the whole.
    """
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return tuple(unit for unit in _rows(model) if _is_closed(unit, uses))


def _rows(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, _LISTS) and len(module) > 1 and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _rows(child)


def _is_closed(unit: nn.Module, uses: dict[int, int]) -> bool:
    inside: dict[int, int] = {}
    for module in unit.modules():
        for parameter in module.parameters(recurse=False):
            inside[id(parameter)] = inside.get(id(parameter), 0) + 1
    return all(uses[key] == number for key, number in inside.items())


class Original:
    """What a module was like before it was sharded; to be made before that."""

    def __init__(self, module: nn.Module) -> None:
        self._modules = list(module.modules())
        self._classes = [type(each) for each in self._modules]
        self._parameters = [dict(each._parameters) for each in self._modules]  # noqa: SLF001
        self._shapes = {id(p): p.shape for p in module.parameters()}
        self._footprint = Footprint(module)

    def release(self) -> None:
        """The module is sharded: the whole parameters' elements are not needed any more."""
        self._footprint.complete()
        present = {id(p) for each in self._modules for p in each.parameters(recurse=False)}
        for parameter in self._trained():
            if id(parameter) not in present:
                parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)

    def restore(self) -> None:
        """Makes the module what it was; the elements of parameters that were sharded are lost."""
        self._footprint.remove()
        for module, cls, parameters in zip(
            self._modules, self._classes, self._parameters, strict=True
        ):
            module.__class__ = cls
            module._parameters.update(parameters)  # noqa: SLF001 - as FSDP2 does
            _composable_state._module_state_mapping.pop(module, None)  # noqa: SLF001
        for parameter in self._trained():
            parameter.grad = None
            shape = self._shapes[id(parameter)]
            if parameter.shape != shape:
                parameter.data = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)

    def _trained(self) -> Iterator[nn.Parameter]:
        seen: set[int] = set()
        for parameters in self._parameters:
            for parameter in parameters.values():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter
