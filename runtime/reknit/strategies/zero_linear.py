"""The linear layer under ZeRO 3: torch's own forward, DeepSpeed's backward.

A plain `linear` would keep a view of every gathered weight until its backward, and with it the
whole model. DeepSpeed therefore replaces `torch.nn.functional.linear` by a function that keeps the
parameter itself and gathers it again. But its forward rounds the product before it adds the bias,
where torch rounds once: under FP16 and BF16 the losses then differ from those of every other
strategy. Here the forward is torch's.
"""

import torch
from deepspeed.runtime.zero.linear import LinearFunctionForZeroStage3
from torch import nn

_torch_linear = nn.functional.linear


class _Linear(LinearFunctionForZeroStage3):  # type: ignore[misc]
    @staticmethod
    def forward(
        input: torch.Tensor,  # noqa: A002 - the name in the class above
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return _torch_linear(input, weight, bias)


def use_exact_linear() -> None:
    """Puts this module's function in the place of torch's, until `restore_linear`."""
    nn.functional.linear = _apply


def restore_linear() -> None:
    """Undoes what this module and DeepSpeed have put in the place of torch's function."""
    nn.functional.linear = _torch_linear


def _apply(
    input: torch.Tensor,  # noqa: A002 - callers may name it
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    result: torch.Tensor = _Linear.apply(input, weight, bias)
    return result
