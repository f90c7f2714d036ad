"""What really happened, and what must hold of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b

from reknit.parameter_server.table import Table, Update


def digest(*parts: object) -> str:
    """Stands for arithmetic: whatever differs in the input differs in the result."""
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


@dataclass
class Weights:
    """One copy's tensors."""

    value: str
    previous: str | None = None

    def copy(self) -> Weights:
        return Weights(self.value, self.previous)


@dataclass
class Truth:
    """Of all ranges of a job."""

    synchronous: bool
    num_ranges: int
    weights: dict[tuple[int, int], str] = field(default_factory=dict)
    """By range and version: the same on every copy that ever comes to it."""
    applied: dict[int, dict[tuple[int, int], int]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """By range: the version that a push, by worker and clock, first counted in."""
    acknowledged: set[tuple[int, int, int]] = field(default_factory=set)
    """(range, worker, clock)."""
    answered: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By range: the highest number of a view in which a primary has answered."""

    def begin(self, number: int) -> Weights:
        weights = digest("initial", number)
        self.weights[number, 0] = weights
        return Weights(weights)

    def apply(self, number: int, weights: Weights, before: int, update: Update) -> None:
        """Checks an update of a copy at version `before`, and makes it."""
        pushes = [(push.worker, push.clock, push.payload) for push in update.pushes]
        assert weights.value == self.weights[number, before]
        weights.previous, weights.value = weights.value, digest(weights.value, pushes)
        known = self.weights.setdefault((number, before + 1), weights.value)
        assert known == weights.value, "copies differ"
        for worker, clock, _ in pushes:
            first = self.applied[number].setdefault((worker, clock), before + 1)
            assert first == before + 1, f"push {worker}:{clock} counts twice"
        if self.synchronous:
            assert [worker for worker, _, _ in pushes] == sorted({w for w, _, _ in pushes})
            whole = tuple(self.weights[other, before] for other in range(self.num_ranges))
            for worker, clock, payload in pushes:
                mine = digest(worker, before, whole, [w for w, _, _ in pushes])
                assert payload == mine, "computed from other weights, or for another share"
                assert clock == before

    def answers(self, number: int, view: int) -> None:
        """A primary answers: none of a later view has done so before."""
        assert view >= self.answered[number], "a stale primary answers"
        self.answered[number] = view

    def check_end(self, tables: list[Table]) -> None:
        """At the end, of the tables of the primaries."""
        for number, table in enumerate(tables):
            mine = self.applied[number]
            kept = {key for key, version in mine.items() if version <= table.version}
            for worker in {worker for worker, _ in kept}:
                clocks = sorted(clock for w, clock in kept if w == worker)
                if not self.synchronous:
                    assert clocks == list(range(clocks[0], clocks[-1] + 1)), "a gap"
                    assert table.clocks[worker] == clocks[-1] + 1
        if not self.synchronous:
            lost = {
                (number, worker, clock)
                for number, worker, clock in self.acknowledged
                if self.applied[number].get((worker, clock), 1 << 60) > tables[number].version
            }
            assert not lost, f"acknowledged and lost: {lost}"
        else:
            for number, _, clock in self.acknowledged:
                assert clock < tables[number].version, "an acknowledged step is lost"


def undisturbed(num_ranges: int, workers: list[int], num_clocks: int) -> list[list[str]]:
    """The weights of all ranges after each clock of a synchronous run, computed directly."""
    weights = [digest("initial", number) for number in range(num_ranges)]
    found = [weights]
    for clock in range(num_clocks):
        whole = tuple(weights)
        pushes = [(worker, clock, digest(worker, clock, whole, workers)) for worker in workers]
        weights = [digest(value, pushes) for value in weights]
        found.append(weights)
    return found
