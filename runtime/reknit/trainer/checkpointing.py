"""When the ranks write checkpoints, and how they agree that one is complete.

Every rank writes its part in the background. What each has to say rides on the gate; the sums move
all ranks through the same states, so that no further communication is needed while training.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from reknit.checkpoint.writer import Checkpointer
from reknit.comm.group import RankGroup
from reknit.protocol.settings import CheckpointSettings
from reknit.state.description import LocalState
from reknit.trainer.gate import Vote, exchange

_WAIT: Final = timedelta(seconds=1)
"""Between two votes while nothing else is left to do than to wait for a write."""


class Stage(Enum):
    """What becomes of the checkpoint under way."""

    IDLE = auto()
    """There is none."""
    WRITING = auto()
    COMMITTING = auto()
    """All parts are durable; rank 0 completes it."""


class Outcome(Enum):
    """What a gate has decided about it."""

    NONE = auto()
    ALL_DURABLE = auto()
    COMMITTED = auto()
    FAILED = auto()


def outcome(stage: Stage, votes: Vote, num_ranks: int) -> tuple[Stage, Outcome]:
    """The next stage and what has happened, from the sum of the votes."""
    if stage is Stage.IDLE:
        return Stage.IDLE, Outcome.NONE
    if votes.failed:
        return Stage.IDLE, Outcome.FAILED
    if stage is Stage.WRITING and votes.durable == num_ranks:
        return Stage.COMMITTING, Outcome.ALL_DURABLE
    if stage is Stage.COMMITTING and votes.committed:
        return Stage.IDLE, Outcome.COMMITTED
    return stage, Outcome.NONE


@dataclass(frozen=True, slots=True)
class Report:
    """A checkpoint that is complete, or has failed."""

    version: int
    location: str
    seconds: float
    """From the beginning of the write."""
    error: str | None = None


class CheckpointCycle:
    """One rank's part in the checkpoints of a generation.

    `vote` goes into each gate and `heard` takes its outcome; `begin` is called between steps, where
    the state is whole.

    Args:
        durable_version: the version of the newest complete checkpoint; None without.
        due: one was due or under way when an earlier generation ended.
        elapsed: seconds since the last one was begun.
    """

    def __init__(
        self,
        settings: CheckpointSettings,
        checkpointer: Checkpointer,
        group: RankGroup,
        durable_version: int | None,
        *,
        due: bool = False,
        elapsed: float = 0.0,
    ) -> None:
        self.durable_version = durable_version
        self._settings = settings
        self._checkpointer = checkpointer
        self._group = group
        self._stage = Stage.IDLE
        self._version = 0
        """Of the checkpoint under way."""
        self._due = False
        self._overdue = due
        self._begun = time.monotonic()
        self._last = self._begun - elapsed
        self._reports: list[Report] = []

    def vote(self) -> Vote:
        """What this rank has to say about the checkpoint under way, and whether one is due."""
        progress = self._checkpointer.progress()
        current = progress is not None and progress.version == self._version
        due = float(self._overdue or self._clock_due())
        if self._stage is Stage.IDLE or progress is None or not current:
            return Vote(due=due)
        if progress.error is not None:
            self._group.store.set(self._error_key(), progress.error)
        return Vote(
            due=due,
            durable=float(progress.durable),
            failed=float(progress.error is not None),
            committed=float(progress.committed),
        )

    def heard(self, votes: Vote, version: int) -> None:
        """Takes the outcome of the gate of the step that led to `version`."""
        every_steps = self._settings.every_steps
        if votes.due or (every_steps is not None and version % every_steps == 0):
            self._due = True
        self._overdue = False
        self._advance(votes)

    @property
    def elapsed(self) -> float:
        """Seconds since the last one was begun, or the clock was started."""
        return time.monotonic() - self._last

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint is due or under way."""
        return self._due or self._overdue or self._stage is not Stage.IDLE

    def abandon(self) -> None:
        """The generation has ended: what is being written is given up, without waiting for it."""
        if self._stage is Stage.WRITING:
            self._checkpointer.abandon(self._version)
        self._checkpointer.close(timedelta(0))

    def wants_to_begin(self) -> bool:
        """Whether `begin` is due now, on every rank alike."""
        return self._due and self._stage is Stage.IDLE

    def begin(self, version: int, state: LocalState) -> None:
        """Copies this rank's part and starts writing it."""
        self._due = False
        self._begun = self._last = time.monotonic()
        if version != self.durable_version:
            # What an earlier write left to do in the background is waited for: all ranks begin, or
            # none does.
            while not self._checkpointer.begin(version, state):
                self._checkpointer.wait(_WAIT)
            self._stage, self._version = Stage.WRITING, version

    def flush(self) -> None:
        """Waits, together with all other ranks, until no checkpoint is under way."""
        while self._stage is not Stage.IDLE:
            self._checkpointer.wait(_WAIT)
            self._advance(exchange(self.vote(), self._group))

    def reports(self) -> list[Report]:
        """What has been completed or has failed since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def close(self) -> None:
        """Ends the background writing."""
        self._checkpointer.close()

    def _advance(self, votes: Vote) -> None:
        self._stage, event = outcome(self._stage, votes, self._group.world_size)
        if event is Outcome.ALL_DURABLE and self._group.rank == 0:
            self._checkpointer.commit(self._version)
        elif event is Outcome.COMMITTED:
            self.durable_version = self._version
            self._report(None)
        elif event is Outcome.FAILED:
            self._report(self._error())
            self._checkpointer.abandon(self._version)

    def _clock_due(self) -> bool:
        every = self._settings.every_seconds
        return (
            self._group.rank == 0 and every is not None and time.monotonic() - self._last >= every
        )

    def _report(self, error: str | None) -> None:
        location = str(self._checkpointer.location(self._version))
        seconds = time.monotonic() - self._begun
        self._reports.append(Report(self._version, location, seconds, error))

    def _error_key(self) -> str:
        return f"checkpoint-error/{self._version}"

    def _error(self) -> str:
        """Why the checkpoint failed."""
        progress = self._checkpointer.progress()
        if progress is not None and progress.error is not None:
            return progress.error
        # Another rank's: it wrote its reason down before it voted.
        return str(self._group.store.get(self._error_key()).decode())
