"""What the ranks have done together in the user's function, as far as a newcomer must know it.

A newcomer runs the function from its start while the others are in the midst of it. Until it has
caught up, what it asks for is answered from here: evaluations by their place, and the steps that it
goes through once more although they are committed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import Field

from reknit.protocol.base import Json, Message

START = -1
"""The position before the first batch."""


class Entries(Message):
    """What one rank tells of its journal."""

    first: int
    """The batch that a newcomer has to begin with, to come to where this rank is."""
    evaluations: tuple[tuple[int, int, float], ...] = ()
    """Position, ordinal and mean."""
    states: tuple[tuple[int, dict[str, Json]], ...] = ()
    """The user's own state when the batch of a step was handed out."""
    results: dict[int, dict[str, Json]] = Field(default_factory=dict)
    """How the latest steps came out, by the version that they led to."""


@dataclass
class Journal:
    """One rank's journal.

    Args:
        first: the step of the first batch that is handed out.
    """

    first: int
    """Of which `states` has the user's own state from the beginning."""
    position: int = START
    ordinal: int = 0
    evaluations: dict[tuple[int, int], float] = field(default_factory=dict)
    states: dict[int, dict[str, Json]] = field(default_factory=dict)
    """Of the latest batches, by step."""

    @property
    def place(self) -> tuple[int, int]:
        """The key of the next evaluation."""
        return self.position, self.ordinal

    def hand_out(self, step: int, state: dict[str, Json]) -> None:
        """The batch of `step` goes to the user's function, whose own state is `state` now."""
        self.states[step] = state
        for old in [known for known in self.states if known < step - 2]:
            del self.states[old]

    def advance(self, position: int) -> None:
        """The function has been through so many steps."""
        if position != self.position:
            self.position, self.ordinal = position, 0

    def evaluated(self, mean: float) -> None:
        """The evaluation at `place` is done."""
        self.evaluations[self.place] = mean
        self.ordinal += 1

    def entries(self, results: dict[int, dict[str, Json]], *, whole: bool) -> Entries:
        """For the other ranks: everything, or what not all of them may know yet."""
        since = START if whole else self.position - 1
        return Entries(
            first=self.first if self.position == START else max(self.first, self.position - 1),
            evaluations=tuple(
                (*place, mean)
                for place, mean in sorted(self.evaluations.items())
                if place[0] >= since
            ),
            states=tuple(sorted(self.states.items())),
            results=results,
        )

    def learn(self, others: Iterable[Entries]) -> None:
        """Takes in the evaluations that others have completed."""
        for entries in others:
            for position, ordinal, mean in entries.evaluations:
                self.evaluations.setdefault((position, ordinal), mean)

    @classmethod
    def of_newcomer(cls, others: Iterable[Entries]) -> tuple[Self, dict[str, Json]]:
        """The journal of a rank that begins, and the user's own state that it begins with.

        Raises:
            ValueError: there are no others.
        """
        others = list(others)
        first = min(entries.first for entries in others)
        known: Mapping[int, dict[str, Json]] = dict(
            state for entries in others for state in entries.states
        )
        journal = cls(first=first)
        journal.learn(others)
        state = known[first]
        journal.states[first] = state
        return journal, state
