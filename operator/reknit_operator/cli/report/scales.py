"""Axes: from values to places, and the round figures along the way. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Final

_NICE: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_CLOCK: Final = (5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 14_400.0)
"""Seconds that people count time in."""
_LOG_SPREAD: Final = 12.0
"""Values that span more than this factor are easier to read on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies: 0 at `low`, 1 at `high`; beyond both it is cut off."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = log10(low), log10(high), log10(max(value, self.low))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round figures on the axis."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def scale_for(values: Sequence[float], *, from_zero: bool = False, fit: bool = False) -> Scale:
    """An axis on which all finite `values` lie, a little room included.

    Args:
        values: what is to be shown.
        from_zero: the axis begins at 0, and is linear.
        fit: the axis ends at the values themselves, as for steps and times.
    """
    known = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if from_zero:
        return Scale(0.0, high * 1.05 if high > 0 else 1.0)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return Scale(low - (0.0 if fit else room), high + room)
    if fit:
        return Scale(low, high)
    if low > 0 and high / low > _LOG_SPREAD:
        return Scale(low / 1.1, high * 1.1, log=True)
    room = (high - low) * 0.05
    return Scale(low - room, high + room)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round figures between `low` and `high`: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** floor(log10(rough))
    step = next(power * nice for nice in _NICE if power * nice >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    last = floor(high / step + 1e-9)
    # Rounded, as multiples of 0.1 are not quite what they should be.
    digits = 12 - floor(log10(step))
    found = [round(index * step, digits) for index in range(first, last + 1)]
    # Between numbers that can hardly be told apart, a multiple may be rounded to one outside.
    slack = (high - low) * 1e-7
    return [tick for tick in found if low - slack <= tick <= high + slack]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 times them where there are few."""
    exponents = range(floor(log10(low)), ceil(log10(high)) + 1)
    whole = [10.0**exponent for exponent in exponents]
    if sum(low <= value <= high for value in whole) < 3:
        whole = [factor * power for power in whole for factor in (1, 2, 5)]
    return [float(f"{value:.6g}") for value in whole if low <= value <= high]


def clock_ticks(longest: float, count: int = 8) -> list[float]:
    """At most about `count` round times between 0 and `longest` seconds."""
    if longest < 20:
        return ticks(0.0, longest, count)
    step = next((step for step in _CLOCK if longest / step <= count), 86_400.0)
    step *= max(1, ceil(longest / step / count))
    return [step * index for index in range(int(longest / step) + 1)]


def clock(seconds: float, longest: float) -> str:
    """A tick on an axis of times that ends at `longest`: `2.5 s`, `1:05` minutes, `3:20 h`."""
    if longest < 60:
        return f"{seconds:g} s"
    if longest < 7200:
        return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
    return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f} h"


def label(value: float, step: float | None = None) -> str:
    """A tick's figure, with no more digits than the distance of the ticks asks for."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.3g}"
    if step is None:
        return f"{value:.6g}"
    digits = max(0, -floor(log10(step) + 1e-9)) if step < 1 else 0
    if step * 10**digits % 1 > 1e-6:
        digits += 1
    return f"{value:,.{digits}f}"


def thin(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most about `limit` points with the same shape: the extremes of each stretch are kept."""
    if len(points) <= limit:
        return list(points)
    kept: list[tuple[float, float]] = [points[0]]
    stretches = max(1, limit // 2)
    for index in range(stretches):
        start = index * len(points) // stretches
        stretch = points[start : (index + 1) * len(points) // stretches]
        extremes = {min(stretch, key=_height), max(stretch, key=_height)}
        kept += sorted(extremes)
    return [*kept, points[-1]]


def _height(point: tuple[float, float]) -> float:
    return point[1]
