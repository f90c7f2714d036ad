"""What ranks have told of their steps, and how long a fault has held them up: pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "STEP "


@dataclass(frozen=True, slots=True)
class Mark:
    """A rank has completed a step.

    Attributes:
        time: seconds since the epoch, by the clock of the rank's node.
        weights: a hash of them after the step.
    """

    rank: int
    step: int
    loss: float
    time: float
    weights: str


def parse(lines: Iterable[str]) -> list[Mark]:
    """The marks among the lines of logs, by time."""
    marks = []
    for line in lines:
        _, found, text = line.partition(PREFIX)
        if found and text.rstrip().endswith("}"):
            marks.append(Mark(**json.loads(text)))
    return sorted(marks, key=lambda mark: mark.time)


def seconds_until_next_step(marks: Iterable[Mark], fault: float, num_ranks: int) -> float | None:
    """From a fault until every rank had completed a step that none had completed before it; None if
    that has not happened yet.

    A rank that joins later does not tell of steps which it was told of: its first later one counts.
    """
    marks = list(marks)
    before = max((mark.step for mark in marks if mark.time <= fault), default=0)
    first: dict[int, float] = {}
    for mark in marks:
        if mark.time > fault and mark.step > before:
            first[mark.rank] = min(mark.time, first.get(mark.rank, mark.time))
    return max(first.values()) - fault if len(first) == num_ranks else None


def longest_pause(marks: Iterable[Mark], start: float) -> float:
    """The longest time from `start` on in which no step was completed by all ranks: what a deletion
    costs, as pods go on until they are told to leave."""
    marks = sorted(marks, key=lambda mark: mark.time)
    reached: dict[int, int] = {mark.rank: 0 for mark in marks}
    longest, since, completed = 0.0, start, 0
    for mark in marks:
        reached[mark.rank] = max(mark.step, reached[mark.rank])
        if min(reached.values()) > completed:
            completed = min(reached.values())
            longest = max(longest, mark.time - since)
            since = max(mark.time, start)
    return longest


def weights_by_step(marks: Iterable[Mark]) -> dict[int, set[str]]:
    """All hashes that ranks have told of each step: one each, unless something is wrong.

    A rank that joins later runs through steps whose results it was told of, and holds the weights
    of a later one then; so a mark does not count if the rank's next one has the same weights.
    """
    found: dict[int, set[str]] = {}
    latest: dict[int, Mark] = {}
    for mark in sorted(marks, key=lambda mark: mark.time, reverse=True):
        later = latest.get(mark.rank)
        if later is None or later.weights != mark.weights:
            found.setdefault(mark.step, set()).add(mark.weights)
        latest[mark.rank] = mark
    return found
