"""How much one micro-batch keeps for its backward pass."""

from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map

from reknit.inspection.model import Built
from reknit.job import Loss
from reknit.layout import Precision, Sharding

_LOW: Final = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def activation_bytes(
    built: Built, loss: Loss, micro_batch: Any, precision: Precision
) -> dict[Sharding, int]:
    """Bytes that autograd saves for one micro-batch, parameters left out, by sharding.

    The loss runs on tensors without elements, so nothing is computed. Without ZeRO a lower
    precision is autocast's; under ZeRO the model itself is lowered, which this does to `built`.
    Empty where the loss cannot run so: it looks at elements, or the model was built on real ones.
    """
    if built.fake is None:
        return {}
    found: dict[Sharding, int | None] = {}
    found[Sharding.NONE] = _saved_bytes(built, built.fake, loss, micro_batch, _LOW.get(precision))
    lowered = found[Sharding.NONE]
    if precision in _LOW:
        with built.fake:
            _lower_model(built.model, _LOW[precision])
        lowered = _saved_bytes(built, built.fake, loss, _lower(micro_batch, _LOW[precision]), None)
    found |= dict.fromkeys(list(Sharding)[1:], lowered)
    return {sharding: size for sharding, size in found.items() if size is not None}


def _saved_bytes(
    built: Built,
    fake: FakeTensorMode,
    loss: Loss,
    micro_batch: Any,
    autocast: torch.dtype | None,
) -> int | None:
    own = {_storage(tensor) for tensor in built.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # The tensor is held on to, so that its storage's identity cannot be used again.
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    try:
        inputs = tree_map(
            lambda leaf: fake.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf,
            micro_batch,
        )
        lowering = torch.autocast("cpu", autocast, enabled=autocast is not None)
        with fake, lowering, saved_tensors_hooks(keep, lambda tensor: tensor):
            loss(built.model, inputs)
    except Exception:
        # An estimate that cannot be made is left out.
        return None
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
