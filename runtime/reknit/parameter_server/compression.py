"""Half-precision pushes: half the bytes, at the price of rounding each worker's gradient."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import torch


class Compression(StrEnum):
    """The number format in which gradients travel; they are added in FP32."""

    NONE = "None"
    FP16 = "FP16"
    """10 bits of mantissa; beyond 65504 infinite."""
    BF16 = "BF16"
    """7 bits of mantissa, the range of FP32."""


_DTYPES: Final[Mapping[Compression, torch.dtype]] = {
    Compression.NONE: torch.float32,
    Compression.FP16: torch.float16,
    Compression.BF16: torch.bfloat16,
}


def compress(gradient: torch.Tensor, compression: Compression) -> torch.Tensor:
    """The gradient as it travels; itself if it has that format already."""
    return gradient.to(_DTYPES[compression])
