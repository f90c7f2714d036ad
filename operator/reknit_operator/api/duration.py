"""Durations as people write them in manifests: `90s`, `10m`, `1h30m`, `7d`."""

import re
from datetime import timedelta
from typing import Final

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}

PATTERN: Final = "^" + "".join(f"([1-9][0-9]{{0,5}}{unit})?" for unit in _UNITS) + "$"
"""Each unit at most once, from days down to seconds; together with a length of 2 never empty."""

MAX_LENGTH: Final = 28


def parse(text: str) -> timedelta:
    """The duration that `text` stands for: whole seconds, at least one.

    Raises:
        ValueError: `text` is no duration; the message says what one looks like.
    """
    match = re.fullmatch(PATTERN, text)
    if not text or match is None:
        raise ValueError(f"{text!r} is no duration, write for example 90s, 10m or 1h30m")
    seconds = sum(int(part[:-1]) * _UNITS[part[-1]] for part in match.groups() if part is not None)
    return timedelta(seconds=seconds)


def render(duration: timedelta) -> str:
    """The shortest text in descending units that `parse` reads as `duration`.

    Raises:
        ValueError: `duration` is below a second or has a fraction of one.
    """
    seconds = int(duration.total_seconds())
    if seconds < 1 or timedelta(seconds=seconds) != duration:
        raise ValueError(f"{duration} is not a whole, positive number of seconds")
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
