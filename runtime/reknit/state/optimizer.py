"""The state of a torch optimizer, by the names of the parameters that it belongs to.

Per parameter an optimizer keeps tensors with one number per element (`exp_avg`), seldom tensors of
another shape, and single numbers (`step`). Strategies that flatten several parameters into one
tensor keep the same, once per flat tensor.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, TypeAlias

import torch

from reknit.errors import CheckpointMismatchError
from reknit.protocol.base import Json
from reknit.state.description import StateSource, TensorSpec
from reknit.state.fitting import REMEDY

State: TypeAlias = dict[str, Any]
"""What `Optimizer.state` has for one tensor."""

_NUMBERS: Final = frozenset({"step", "mu_product", "mu", "eta"})
"""Numbers that torch's optimizers keep as tensors without dimensions, like a scalar parameter's
elementwise state."""

_ORIGINAL_S_OWN: Final = frozenset({"defaults", "param_groups", "state", "step", "_opt_called"})
"""Attributes of an optimizer's object that are no property of its class or configuration."""


def class_name(optimizer: torch.optim.Optimizer) -> str:
    """The optimizer's class, as a checkpoint calls it."""
    return type(optimizer).__name__


def tensors(optimizer: torch.optim.Optimizer, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state of one of the optimizer's tensors, without single numbers."""
    state: State = optimizer.state.get(tensor, {})
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and not _is_number(key, value, tensor)
    }


def scalars(
    optimizer: torch.optim.Optimizer, holders: Iterable[tuple[torch.Tensor, Sequence[str]]]
) -> Json:
    """The single numbers as JSON: {"class": ..., "numbers": {key: {"dtype", "values"}}}.

    `values` has a number per parameter, or a single one if all parameters share it.
    """
    found: dict[str, dict[str, float | int]] = {}
    dtypes: dict[str, str | None] = {}
    num_names = 0
    for tensor, names in holders:
        num_names += len(names)
        for key, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, torch.Tensor):
                if not _is_number(key, value, tensor):
                    continue
                dtypes[key] = str(value.dtype).removeprefix("torch.")
                value = value.item()
            elif value is None:
                continue
            else:
                dtypes.setdefault(key, None)
            found.setdefault(key, {}).update(dict.fromkeys(names, value))
    numbers: dict[str, Json] = {}
    for key, values in found.items():
        alike = len(values) == num_names and len(set(values.values())) == 1
        numbers[key] = {
            "dtype": dtypes[key],
            "values": next(iter(values.values())) if alike else dict(values),
        }
    return {"class": class_name(optimizer), "numbers": numbers}


def read_scalars(stored: Json, names: Sequence[str]) -> State:
    """The single numbers for a tensor that holds the parameters `names`.

    Raises:
        CheckpointMismatchError: the parameters have different numbers but must share one.
    """
    state: State = {}
    numbers = stored.get("numbers") if isinstance(stored, dict) else None
    for key, entry in (numbers if isinstance(numbers, dict) else {}).items():
        assert isinstance(entry, dict)
        values = entry["values"]
        if isinstance(values, dict):
            distinct = {values[name] for name in names if name in values}
        else:
            distinct = {values}
        if len(distinct) > 1:
            raise CheckpointMismatchError(
                f"the optimizer's {key} differs between parameters of one group, which cannot be "
                "sharded; go on with the sharding that the checkpoint was written under"
            )
        for value in distinct:
            dtype = entry["dtype"]
            # 0-dimensional tensors stay on the CPU, where torch's optimizers create them.
            state[key] = torch.tensor(value, dtype=getattr(torch, str(dtype))) if dtype else value
    return state


def tensor_specs(source: StateSource) -> Iterator[tuple[str, str, TensorSpec]]:
    """(key, parameter, spec) of every tensor of optimizer state in `source`."""
    for full_name, spec in source.specs.items():
        if full_name.startswith("optimizer/"):
            _, key, name = full_name.split("/", 2)
            yield key, name, spec


def replace(optimizer: torch.optim.Optimizer, tensor: torch.Tensor, state: State) -> None:
    """Puts `state` in the place of what the optimizer has for `tensor`."""
    optimizer.state.pop(tensor, None)
    if not state:
        return
    for group in optimizer.param_groups:
        # These variants keep their numbers beside the parameter.
        if group.get("capturable") or group.get("fused"):
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.ndim == 0:
                    state[key] = value.to(tensor.device)
    optimizer.state[tensor] = state


def twin(
    optimizer: torch.optim.Optimizer, tensors: Mapping[int, torch.Tensor], *, steps: bool
) -> torch.optim.Optimizer:
    """An optimizer of the same class and hyperparameters for other tensors, without state.

    What a class keeps on the object beside that is copied, but for hooks and for the `step` in
    which schedules wrap that of the class: both belong to the original.

    Args:
        optimizer: the original.
        tensors: by the `id` of each of its tensors the one to put in its place.
        steps: whether the twin will take steps; otherwise it only holds state, and nothing else
            needs to be copied.

    Raises:
        Exception: the object has attributes that cannot be copied.
    """
    own = type(optimizer)
    kept: dict[str, Any] = {}
    if steps:
        kept = {
            name: deepcopy(value)
            for name, value in vars(optimizer).items()
            if name not in _ORIGINAL_S_OWN and not name.endswith("hooks")
        }
    else:
        # A destructor of the class would look for what it does not have.
        own = type(own.__name__, (torch.optim.Optimizer,), {})
    groups = [
        _hyperparameters(group) | {"params": [tensors[id(tensor)] for tensor in group["params"]]}
        for group in optimizer.param_groups
    ]
    other = object.__new__(own)
    state = {"defaults": deepcopy(optimizer.defaults), "state": defaultdict(dict)}
    other.__setstate__(kept | state | {"param_groups": groups})
    return other


def take_hyperparameters(optimizer: torch.optim.Optimizer, original: torch.optim.Optimizer) -> None:
    """Copies what schedules change, and whatever else stands in the parameter groups."""
    for group, source in zip(optimizer.param_groups, original.param_groups, strict=True):
        group.update(_hyperparameters(source))


def prepare_state(
    optimizer: torch.optim.Optimizer,
    tensors: Sequence[torch.Tensor],
    original: torch.optim.Optimizer,
    originals: Sequence[torch.Tensor],
) -> None:
    """Gives the optimizer of a shard's copy state of the same form as another shard's.

    Single numbers are the same in all shards and are copied; elements are left undefined.
    """
    optimizer.state.clear()
    for tensor, other in zip(tensors, originals, strict=True):
        state = {
            key: torch.empty_like(value) if _has_elements(value) else deepcopy(value)
            for key, value in original.state.get(other, {}).items()
        }
        if state:
            optimizer.state[tensor] = state


def elements(
    optimizer: torch.optim.Optimizer, tensors: Sequence[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """The state of `tensors` that differs between shards, in a fixed order."""
    for tensor in tensors:
        for value in optimizer.state.get(tensor, {}).values():
            if _has_elements(value):
                yield value


def step(
    optimizer: torch.optim.Optimizer,
    tensors: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    factor: float,
) -> None:
    """One step with `gradients`, which are multiplied in place by `factor` before.

    Every copy of a shard takes its steps here, and with them the same bits.
    """
    if factor != 1.0:
        torch._foreach_mul_(list(gradients), factor)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        tensor.grad = gradient
    optimizer.step()
    for tensor in tensors:
        tensor.grad = None


def check_class(source: StateSource, optimizer: torch.optim.Optimizer) -> None:
    """Refuses the state of another kind of optimizer.

    Raises:
        CheckpointMismatchError: the classes differ.
    """
    stored = source.scalars.get("optimizer")
    name = stored.get("class") if isinstance(stored, dict) else None
    if name != class_name(optimizer):
        raise CheckpointMismatchError(
            f"the checkpoint {source} was written with the optimizer {name}, not "
            f"{class_name(optimizer)}; {REMEDY}"
        )


def _hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: deepcopy(value) for key, value in group.items() if key != "params"}


def _has_elements(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _is_number(key: str, value: torch.Tensor, tensor: torch.Tensor) -> bool:
    return value.ndim == 0 and (tensor.ndim > 0 or key in _NUMBERS)
