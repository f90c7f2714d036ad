"""Throughput of two programs that take turns on one machine: what counts is their own time.

A machine that others use as well changes its speed by a factor of two within minutes. Runs that
follow each other would be compared at different speeds; turns of a few seconds meet the same.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Turn: TypeAlias = tuple[float, float]
"""When it began and ended, seconds since the epoch."""


@dataclass(frozen=True)
class Progress:
    """What one of the two has done.

    Args:
        turns: when it ran, in order.
        done: when each of its steps was complete, seconds since the epoch, in order.
    """

    turns: Sequence[Turn]
    done: Sequence[float]

    def steps_within(self, num_turns: int) -> float:
        """Steps made during the first turns, begun ones in part.

        Raises:
            ValueError: no step was complete after these turns, so the last one has no length.
        """
        turns = self.turns[:num_turns]
        times = [own_time(self.turns, moment) for moment in self.done]
        return _position(times, seconds(turns)) - _position(times, 0.0)


def seconds(turns: Iterable[Turn]) -> float:
    """How long they last together."""
    return sum(end - begin for begin, end in turns)


def own_time(turns: Iterable[Turn], moment: float) -> float:
    """How much of the turns lies before `moment`; before the first turn, negative seconds to it."""
    turns = list(turns)
    if moment < turns[0][0]:
        return moment - turns[0][0]
    return sum(min(end, moment) - begin for begin, end in turns if begin < moment)


def steps_per_second(*progress: Progress) -> list[float]:
    """Of each, over the turns that all of them made whole.

    A turn is whole when a step was complete after it: the last one is not, if the program ended.
    """
    num_turns = min(map(_whole, progress))
    return [p.steps_within(num_turns) / seconds(p.turns[:num_turns]) for p in progress]


def _whole(progress: Progress) -> int:
    return sum(end <= progress.done[-1] for _, end in progress.turns)


def _position(times: Sequence[float], moment: float) -> float:
    """How many steps were done then, counted with the begun one's part."""
    index = bisect_right(times, moment)
    if not 0 < index < len(times):
        raise ValueError(f"no step was complete on both sides of {moment}")
    begin, end = times[index - 1], times[index]
    return index + (moment - begin) / (end - begin)
