"""What the methods of `Job` and `Engine` take: one sentence for what they can do nothing with.

A dry run and the ranks ask the same functions, so that a mistake is told alike by both.
"""

import sys
from typing import Any

import torch
from torch import nn

from reknit.errors import ConfigurationError

_FACTORIES = {
    "model": "a function that builds the model, e.g. model=lambda: Net()",
    "optimizer": (
        "a function that builds the optimizer, e.g. optimizer=lambda params: AdamW(params, lr=1e-3)"
    ),
    "schedule": (
        "a function that builds the schedule, e.g. "
        "schedule=lambda optimizer: CosineAnnealingLR(optimizer, 100)"
    ),
}


def check_engine_arguments(
    *, model: Any, optimizer: Any, loss: Any, schedule: Any, clip_grad_norm: float | None
) -> None:
    """Looks at the arguments of `job.engine`, without calling any.

    Raises:
        ConfigurationError: one is a thing where a function that makes it is needed, the loss is
            one of torch's modules, or gradients are to be clipped to nothing.
    """
    given = {"model": model, "optimizer": optimizer}
    if schedule is not None:
        given["schedule"] = schedule
    for name, factory in given.items():
        # A model can be called, but with its inputs.
        if not callable(factory) or isinstance(factory, nn.Module):
            raise ConfigurationError(
                f"job.engine: {name} must be {_FACTORIES[name]}, not {_article(factory)}"
            )
    is_torch_s_own = isinstance(loss, nn.Module) and type(loss).__module__.startswith("torch.nn.")
    if not callable(loss) or is_torch_s_own:
        raise ConfigurationError(
            "job.engine: loss is called as loss(model, micro_batch), e.g. "
            "loss=lambda model, batch: mse_loss(model(batch[0]), batch[1]), which "
            f"{_article(loss)} is not made for"
        )
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ConfigurationError(
            f"job.engine: clip_grad_norm must be positive, not {clip_grad_norm}"
        )


def check_dataset(dataset: Any, method: str) -> None:
    """Looks at the data set of `job.batches` or `engine.evaluate`, without drawing samples.

    Args:
        dataset: what was given.
        method: what it was given to.

    Raises:
        ConfigurationError: it is no map-style data set.
    """
    # Imported by whoever has made one of its objects: it is slow to import.
    torch_data = sys.modules.get("torch.utils.data")
    kind = ""
    if torch_data is not None and isinstance(dataset, torch_data.DataLoader):
        kind = "a DataLoader: Reknit makes the batches, their sizes are in spec.batch"
    elif torch_data is not None and isinstance(dataset, torch_data.IterableDataset):
        kind = "an IterableDataset: Reknit draws samples by their numbers, in an order of its own"
    elif not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        kind = f"{_article(dataset)}: it needs __len__ and __getitem__"
    if kind:
        raise ConfigurationError(f"{method}: takes a map-style data set, not {kind}")


def check_loss_value(value: Any) -> torch.Tensor:
    """The loss as a tensor without dimensions.

    Raises:
        TypeError: it is no tensor with one element.
    """
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"a loss is a tensor with one element, not {found}")
    # No view: FSDP2's hooks on it would be lost by an operation in place.
    return value if value.ndim == 0 else value.sum()


def _article(value: object) -> str:
    """`an Adam`, `a DataLoader`, `an MSELoss`, whose first letter is said by its name."""
    name = type(value).__name__
    is_spelt = name[:2].isupper() and name[0] in "FHLMNRSX"
    return f"{'an' if is_spelt or name[0].lower() in 'aeiou' else 'a'} {name}"
