"""Figures in words: sizes, times, counts."""

from math import isfinite
from typing import Final

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNTS: Final = ("", "K", "M", "B", "T")


def size(num_bytes: float) -> str:
    """Bytes in the largest binary unit: `1.5 GiB`."""
    unit = 0
    while abs(num_bytes) >= 1024 and unit < len(_SIZES) - 1:
        num_bytes /= 1024
        unit += 1
    digits = 0 if unit == 0 or abs(num_bytes) >= 100 else 1
    return f"{num_bytes:.{digits}f} {_SIZES[unit]}"


def count(number: float) -> str:
    """A number of things in thousands: `1.2M`."""
    unit = 0
    while abs(number) >= 1000 and unit < len(_COUNTS) - 1:
        number /= 1000
        unit += 1
    return f"{number:.{0 if unit == 0 or abs(number) >= 100 else 1}f}{_COUNTS[unit]}"


def span(seconds: float) -> str:
    """A length of time in its two largest units: `1 h 05 min`, `2 min 10 s`, `3.2 s`, `40 ms`."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def figure(value: float) -> str:
    """A measured number with four digits that count: `2.302`, `0.001`, `1.5e-07`, `12,345`."""
    if not isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 rank`, `2 ranks`, `2 batches`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
