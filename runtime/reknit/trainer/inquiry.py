"""Looking into a step whose numbers are wrong: it is computed again, on the same ranks and others.

All ranks come to the same verdict, as each has everyone's readings. Ranks that compute on the same
micro-batches together, as the stages of a pipeline do, are judged as one: what one of them spoils
spoils the others' numbers, too.
"""

from dataclasses import replace
from enum import Enum, auto

from reknit.comm.group import RankGroup
from reknit.numbers.evidence import Evidence, gather, joined
from reknit.numbers.verdict import Blame, Trial, Verdict, judge, rotation
from reknit.protocol.settings import OnBadData


class Next(Enum):
    """What is to be done with the step."""

    COMMIT = auto()
    AGAIN = auto()
    SKIP = auto()
    """Leave out the update, and count the step."""
    REPLACE = auto()
    """A rank gives up its place; the step is taken anew without it."""
    HALT = auto()


class Inquiry:
    """The trials of one step.

    Args:
        group: the ranks.
        evidence: this rank's.
        on_bad_data: what the job wants to be done about data that give wrong numbers.
    """

    def __init__(self, group: RankGroup, evidence: Evidence, on_bad_data: OnBadData) -> None:
        self.verdict: Verdict | None = None
        self._group = group
        self._evidence = evidence
        self._on_bad_data = on_bad_data
        self._trials: list[Trial] = []
        # With one place for data nothing could tell the first computation from the second.
        evidence.is_taken = group.mesh.num_data > 1

    @property
    def rotation(self) -> int:
        """By how many places along the data axis the next trial's micro-batches are moved."""
        return rotation(len(self._trials))

    def follow(self, breach: str | None) -> Next:
        """A trial has passed its gate, on all ranks, with this wrong about it."""
        if breach is None and not self._trials:
            return Next.COMMIT
        self._trials.append(self._trial(breach))
        mesh = self._group.mesh
        found = judge(self._trials, mesh.num_data)
        self.verdict = found and replace(
            found, ranks=tuple(sorted(r for data in found.ranks for r in mesh.with_data(data)))
        )
        self._evidence.is_taken = True
        if self.verdict is None:
            return Next.AGAIN
        match self.verdict.blame:
            case Blame.PASSING:
                return Next.COMMIT
            case Blame.RANK:
                return Next.REPLACE
            case Blame.DATA if self._on_bad_data is OnBadData.SKIP:
                return Next.SKIP
            case _:
                return Next.HALT

    def _trial(self, breach: str | None) -> Trial:
        if breach is None:
            return Trial(None, ())
        readings = self._evidence.readings(self._group.place.data, counts=self._group.speaks)
        return Trial(breach, joined(gather(readings, self._group)))
