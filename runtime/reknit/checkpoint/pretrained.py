"""Starting from weights that are already there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from reknit.errors import CheckpointMismatchError, ConfigurationError


def load_pretrained(module: nn.Module, path: str | PathLike[str]) -> None:
    """Copies the tensors of a safetensors file into `module` by name, converting number formats.

    Every tensor of the file must be in the module and the other way round, in the same shape; of
    tied weights one name is enough. Nothing is copied unless everything fits.

    Raises:
        ConfigurationError: the file cannot be read.
        CheckpointMismatchError: names or shapes differ; the sentence names the first difference.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"there is no file of pre-trained weights at {path}")
    # keep_vars keeps the identity of tied tensors; what modules add to the state besides tensors
    # is not in a safetensors file.
    targets = {
        name: value
        for name, value in module.state_dict(keep_vars=True).items()
        if isinstance(value, torch.Tensor)
    }
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            difference = _difference(shapes, targets)
            if difference is not None:
                raise CheckpointMismatchError(
                    f"the weights in {path} do not fit the model: {difference}"
                )
            with torch.no_grad():
                for name in shapes:
                    targets[name].copy_(file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            f"the pre-trained weights in {path} cannot be read: {error}"
        ) from error


def _difference(
    shapes: Mapping[str, Sequence[int]], targets: Mapping[str, torch.Tensor]
) -> str | None:
    """The first thing that does not fit."""
    names_of: dict[int, list[str]] = defaultdict(list)
    for name, tensor in targets.items():
        names_of[id(tensor)].append(name)
    for names in names_of.values():
        if not any(name in shapes for name in names):
            return f"the file has no {names[0]}, which the model needs"
    for name, shape in shapes.items():
        if name not in targets:
            return f"the file holds {name}, which the model does not have"
        expected = tuple(targets[name].shape)
        if tuple(shape) != expected:
            return f"{name} has shape {tuple(shape)} in the file and {expected} in the model"
    return None
