"""Half-precision pushes: half the bytes, at the price of rounding each worker's gradient."""

from collections.abc import Mapping
from typing import Final

import torch

from reknit.parameter_server.formats import Compression

_DTYPES: Final[Mapping[Compression, torch.dtype]] = {
    Compression.NONE: torch.float32,
    Compression.FP16: torch.float16,
    Compression.BF16: torch.bfloat16,
}


def compress(gradient: torch.Tensor, compression: Compression) -> torch.Tensor:
    """The gradient as it travels; itself if it has that format already."""
    return gradient.to(_DTYPES[compression])
