"""What DeepSpeed adds to a user's modules and parameters, taken away again for the next engine.

DeepSpeed's own clean-up needs an engine that was made to the end, and leaves ZeRO 3's parameters
without their elements and its methods on them. The model of a rank that outlives its generation is
the user's object and stays in use.
"""

from typing import Any, Final, TypeAlias

import torch
from torch import nn

_Mark: TypeAlias = tuple[str, Any]
"""An attribute's name with None, or the name of a dictionary of hooks with a key in it."""

_LATER: Final = frozenset({"applied_pre_backward_ref_cnt", "ds_grads_remaining"})
"""What DeepSpeed's hooks add to modules when they first run."""

_GRADIENT_HOOKS: Final = "_post_accumulate_grad_hooks"


class Footprint:
    """To be created before the engine; `complete` says that it has been made, or has failed."""

    def __init__(self, module: nn.Module) -> None:
        self._things: list[nn.Module | nn.Parameter] = [*module.modules(), *module.parameters()]
        self._shapes = [parameter.shape for parameter in module.parameters()]
        self._before = [_marks(thing) for thing in self._things]
        self._added: list[set[_Mark]] = [set() for _ in self._things]

    def complete(self) -> None:
        """Remembers what has been added; what comes from now on is the user's."""
        self._added = [
            _marks(thing) - before for thing, before in zip(self._things, self._before, strict=True)
        ]

    def remove(self) -> None:
        """Takes it away. Parameters have their shapes again, but not always their elements."""
        for thing, added in zip(self._things, self._added, strict=True):
            if isinstance(thing, nn.Module) and ("_original_parameters", None) in added:
                thing._parameters = thing._original_parameters  # type: ignore[assignment] # noqa: SLF001
            for name, key in added:
                if key is None:
                    vars(thing).pop(name, None)
                else:
                    getattr(thing, name).pop(key, None)
            added.clear()
            for name in _LATER:
                vars(thing).pop(name, None)
        parameters = [thing for thing in self._things if isinstance(thing, nn.Parameter)]
        for parameter, shape in zip(parameters, self._shapes, strict=True):
            parameter.grad = None
            if parameter.shape != shape:
                parameter.data = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)


def _marks(thing: nn.Module | nn.Parameter) -> set[_Mark]:
    attributes = dict(vars(thing))
    marks: set[_Mark] = {(name, None) for name in attributes}
    if isinstance(thing, nn.Parameter):
        attributes[_GRADIENT_HOOKS] = getattr(thing, _GRADIENT_HOOKS)
    for name, value in attributes.items():
        if name.endswith("hooks") and isinstance(value, dict):
            marks |= {(name, key) for key in value}
    return marks
