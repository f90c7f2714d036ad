"""How much one micro-batch keeps for its backward pass."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map

from reknit.arguments import check_loss_value
from reknit.cuts import Cut
from reknit.errors import ConfigurationError
from reknit.inspection.model import Built
from reknit.inspection.trial import refuse_broken_loss
from reknit.job import Loss
from reknit.layout import Precision, Sharding
from reknit.strategies.tensor_cutting import CutModel

_LOW: Final = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def activation_bytes(
    built: Built, loss: Loss, micro_batch: Any, precision: Precision
) -> dict[Sharding, int]:
    """Bytes that autograd saves for one micro-batch, parameters left out, by sharding.

    The loss runs on tensors without elements, so nothing is computed. Without ZeRO a lower
    precision is autocast's; under ZeRO the model itself is lowered, which this does to `built`.
    Empty where the loss cannot run so: it looks at elements, or the model was built on real ones.

    Raises:
        ConfigurationError: the loss cannot run at all.
    """
    found: dict[Sharding, int | None] = {}
    found[Sharding.NONE] = _of_whole(built, loss, micro_batch, _LOW.get(precision))
    if built.fake is None:
        return {}
    lowered = found[Sharding.NONE]
    if precision in _LOW:
        with built.fake:
            _lower_model(built.model, _LOW[precision])
        lowered = None
        # What goes wrong only in a lower precision may be a lack of torch's, so it is left out.
        with suppress(Exception):
            lowered = _saved_bytes(
                built, built.fake, loss, _lower(micro_batch, _LOW[precision]), None
            )
    found |= dict.fromkeys(list(Sharding)[1:], lowered)
    return {sharding: size for sharding, size in found.items() if size is not None}


def activation_bytes_of_part(
    built: Built,
    cuts: Mapping[str, Cut],
    degree: int,
    loss: Loss,
    micro_batch: Any,
    precision: Precision,
) -> dict[Sharding, int]:
    """The same of one of `degree` ranks that divide the layers among them; cuts the model.

    Raises:
        ConfigurationError: the loss cannot run at all, or the model computes it when it is whole,
            but not with its layers cut.
    """
    autocast = _LOW.get(precision)
    if _of_whole(built, loss, micro_batch, autocast) is None or built.fake is None:
        return {}
    with built.fake:
        CutModel(built.model, cuts, FirstOf(degree))
    try:
        found = _saved_bytes(built, built.fake, loss, micro_batch, autocast)
    except Exception as error:
        text = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"job.engine: tensor_plan: with its layers cut among {degree} ranks the model cannot "
            f"compute its loss, because between a Column and a Row each rank has only a part of "
            f"the activations: {type(error).__name__}: {text}"
        ) from error
    return {Sharding.NONE: found}


@dataclass(frozen=True)
class FirstOf:
    """The first of ranks that are not there: what they would add has no elements either."""

    size: int
    place: int = 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of the shape of a sum."""
        return tensor

    def join(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of the shape of all parts together."""
        return torch.cat([tensor] * self.size, dim=-1)


def _of_whole(
    built: Built, loss: Loss, micro_batch: Any, autocast: torch.dtype | None
) -> int | None:
    """None where it cannot be told, although the loss may well run in training."""
    if built.fake is None:
        refuse_broken_loss(None, built, loss, micro_batch)
        return None
    try:
        return _saved_bytes(built, built.fake, loss, micro_batch, autocast)
    except Exception as error:
        refuse_broken_loss(error, built, loss, micro_batch)
        return None


def _saved_bytes(
    built: Built,
    fake: FakeTensorMode,
    loss: Loss,
    micro_batch: Any,
    autocast: torch.dtype | None,
) -> int:
    own = {_storage(tensor) for tensor in built.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # The tensor is held on to, so that its storage's identity cannot be used again.
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    inputs = tree_map(
        lambda leaf: fake.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf,
        micro_batch,
    )
    lowering = torch.autocast("cpu", autocast, enabled=autocast is not None)
    with fake, lowering, saved_tensors_hooks(keep, lambda tensor: tensor):
        check_loss_value(loss(built.model, inputs))
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


def _lower_model(model: nn.Module, dtype: torch.dtype) -> None:
    """`model.to(dtype)`, which cannot swap parameters that have no elements."""
    lowered: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_floating_point():
                lower = lowered.setdefault(
                    id(parameter), nn.Parameter(parameter.detach().to(dtype))
                )
                setattr(module, name, lower)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))


def _lower(micro_batch: Any, dtype: torch.dtype) -> Any:
    return tree_map(
        lambda leaf: (
            leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf
        ),
        micro_batch,
    )


def _storage(tensor: torch.Tensor) -> int:
    """Identity of the memory that a tensor and its views share."""
    identity: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - fake storages have no address
    return identity
