"""What one server knows of one range, what it is told, and what it asks for: plain values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from reknit.parameter_server.messages import PeerMessage, Reply, Request
from reknit.parameter_server.table import Effect, Entry, Mode, Restored, Table, Update
from reknit.parameter_server.views import View

PROBE_SECONDS: Final = 0.05
"""After this time a backup is asked again how far it is."""


class Stage(Enum):
    """What the primary knows of its backup in the present view."""

    ASKED = "asked"
    COPYING = "copying"
    """A snapshot is on its way."""
    FOLLOWING = "following"
    """It has what the primary had, and takes entry after entry."""


@dataclass(frozen=True, slots=True)
class Feed:
    """How the primary brings its backup up to date, and keeps it there."""

    stage: Stage = Stage.ASKED
    acked: int = 0
    """The backup holds the entries up to here; when copying, the snapshot does."""
    alone: bool = False
    """The backup has said that it is no complete copy, so there is nothing to wait for."""
    required: int | None = None
    """When following: what it had to reach to be a complete copy."""
    complete: bool = False
    """It has said that it is one."""
    probe: int = 0
    """The latest question; answers to others say nothing about what was lost."""
    covers: int = 0
    """What had been sent before it."""
    is_open: bool = False
    """It is not answered yet."""
    asked_at: float = -math.inf
    """When it was asked first."""
    probed_at: float = -math.inf
    """When it was asked last."""


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry with the view in which it was ordered."""

    term: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Log:
    """Entries that have been ordered, and are not known to be held by everyone."""

    base: int = 0
    """The index before the first of them."""
    base_term: int = 0
    entries: tuple[Logged, ...] = ()

    @property
    def last(self) -> int:
        """The index of the last one."""
        return self.base + len(self.entries)

    def term_at(self, index: int) -> int | None:
        """The term of an entry; None if that is known no more, or not yet."""
        if index == self.base:
            return self.base_term
        if self.base < index <= self.last:
            return self.entries[index - self.base - 1].term
        return None

    def after(self, index: int) -> tuple[Logged, ...]:
        """The entries behind `index`, which must not lie before the base."""
        return self.entries[index - self.base :]

    def without(self, index: int) -> "Log":
        """Drops the entries up to `index`."""
        term = self.term_at(index)
        if term is None or index == self.base:
            return self
        return Log(index, term, self.after(index))


@dataclass(frozen=True, slots=True)
class RangeState:
    """One server's copy of one range."""

    server: str
    mode: Mode
    number: int
    """The view's, or the one before the first view that this copy may serve in."""
    complete: bool
    """This copy holds all that was acknowledged."""
    view: View | None = None
    lease_until: float = -math.inf
    applied: Table = field(default_factory=Table)
    """That of the tensors."""
    ordered: Table = field(default_factory=Table)
    """Of a primary: with all entries that it has ordered."""
    log: Log = field(default_factory=Log)
    feed: Feed | None = None
    """Of a primary with a backup."""
    waiting: Mapping[tuple[int, int], "Received"] = field(default_factory=dict)
    """Requests that cannot be answered yet, without gradients; by worker and request."""

    @property
    def is_primary(self) -> bool:
        """By the latest view that it knows."""
        return self.view is not None and self.view.primary == self.server

    @property
    def is_backup(self) -> bool:
        """By the latest view that it knows."""
        return self.view is not None and self.view.backup == self.server

    def serves(self, now: float) -> bool:
        """Whether it may answer workers."""
        return self.is_primary and self.complete and now < self.lease_until


def new_range(
    server: str, mode: Mode, *, holds_since: int | None = None, table: Table | None = None
) -> RangeState:
    """A copy before its first view.

    Args:
        server: the name of this process.
        mode: how the range is updated.
        holds_since: the number of the view in which the tensors of this copy, initial or from a
            checkpoint, are those of the job; None for one that has to be filled.
        table: what belongs to the tensors; of a new job an empty one.
    """
    known = table or (Table(index=-1) if holds_since is None else Table())
    return RangeState(
        server=server,
        mode=mode,
        number=0 if holds_since is None else holds_since - 1,
        complete=holds_since is not None,
        applied=known,
        ordered=known,
        log=Log(known.index, known.term),
    )


@dataclass(frozen=True, slots=True)
class Received:
    """A worker's request; `content` is the gradient, or what is to be pulled."""

    request: Request
    content: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of the other copy; `tensors` come with a snapshot."""

    message: PeerMessage
    tensors: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Viewed:
    """The coordinator has published a view."""

    view: View


@dataclass(frozen=True, slots=True)
class Leased:
    """The coordinator will appoint no other primary before `until`, by this server's clock."""

    number: int
    until: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = Received | Heard | Viewed | Leased | Tick


@dataclass(frozen=True, slots=True)
class Tell:
    """Send this to a worker's process; a `Pulled` with the tensors that `content` asks for."""

    worker: int
    incarnation: int
    reply: Reply
    content: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Send:
    """Send this to another server; a snapshot with the tensors as they are at this point."""

    server: str
    message: PeerMessage


@dataclass(frozen=True, slots=True)
class Apply:
    """Update the tensors."""

    update: Update


@dataclass(frozen=True, slots=True)
class Install:
    """Replace the tensors by those of a snapshot."""

    table: Table
    tensors: object = field(compare=False)


@dataclass(frozen=True, slots=True)
class Restore:
    """Replace the tensors by those of a checkpoint, or by what the job begins with."""

    entry: Restored


Action: TypeAlias = Tell | Send | Apply | Install | Restore
"""To be done in the order in which they are given."""
Outcome: TypeAlias = tuple[RangeState, tuple[Action, ...]]


def carry_out(effect: Effect | None) -> tuple[Action, ...]:
    """What an entry asks to be done to the tensors."""
    match effect:
        case Update():
            return (Apply(effect),)
        case Restored():
            return (Restore(effect),)
        case None:
            return ()
