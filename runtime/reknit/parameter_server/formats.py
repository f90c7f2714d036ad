"""In which number format gradients travel."""

from enum import StrEnum


class Compression(StrEnum):
    """The number format in which gradients travel; they are added in FP32."""

    NONE = "None"
    FP16 = "FP16"
    """10 bits of mantissa; beyond 65504 infinite."""
    BF16 = "BF16"
    """7 bits of mantissa, the range of FP32."""
