"""What workers and servers of a range say to each other: plain values without tensors."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from reknit.parameter_server.table import Entry, Table


class Kind(StrEnum):
    """What a worker asks for."""

    PUSH = "push"
    ASK = "ask"
    """Has this push arrived? It comes without the gradient, behind it on the same connection."""
    PULL = "pull"
    JOIN = "join"
    """The next clock that the range has not got of this place."""
    RESTORE = "restore"
    """Give up everything for a version from elsewhere."""
    DESCRIBE = "describe"
    """Everything that a checkpoint holds of a version, and no weights for a step."""


@dataclass(frozen=True, slots=True)
class Request:
    """A worker's request, the same however often it is sent but for the view."""

    kind: Kind
    worker: int
    incarnation: int
    number: int
    """The view's."""
    roster: int
    request: int
    """Never used twice by a process."""
    clock: int = 0
    """Of a push: the step whose gradient it brings. Of a pull: the step that needs the weights.
    Else the version."""
    source: str = ""
    """Of a restore, as in `Restored`."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The push is held by primary and backup, if there is one, and counts once."""

    request: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """Comes with the weights of `version`."""

    request: int
    version: int


@dataclass(frozen=True, slots=True)
class Joined:
    """The next clock of this place; all before have been taken."""

    request: int
    clock: int
    roster: int
    """The view's, in which this was true."""
    origin: int = 0
    """As in `Table`."""


@dataclass(frozen=True, slots=True)
class Described:
    """Comes with the state of `version`, as `RangeTensors.describe` returns it."""

    request: int
    version: int


class Reason(StrEnum):
    """Why a request is refused; a refusal changes nothing."""

    NOT_SERVING = "not serving"
    """This server is no primary, or has no lease yet, or none any more."""
    OTHER_VIEW = "other view"
    """Primary and worker do not know the same view yet."""
    NO_MEMBER = "no member"
    """The view names another process for this place, or none."""
    MISSING = "missing"
    """The push that was asked for has not arrived."""
    EARLY = "early"
    """A clock before this push has not arrived."""
    GONE = "gone"
    """The version that a pull asks for is kept no more."""
    INVALID = "invalid"
    """The content does not fit the range."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was done."""

    request: int
    reason: Reason


Reply: TypeAlias = Acknowledged | Pulled | Joined | Described | Refused


@dataclass(frozen=True, slots=True)
class Append:
    """Primary to backup: the entry after (`after`, `after_term`)."""

    number: int
    after: int
    after_term: int
    term: int
    entry: Entry
    required: int | None
    """From this index on the backup holds all that was acknowledged; None: it cannot yet."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Primary to backup: how far are you?"""

    number: int
    probe: int
    required: int | None


@dataclass(frozen=True, slots=True)
class Position:
    """Backup to primary: holds everything up to (`index`, `term`)."""

    number: int
    index: int
    term: int
    complete: bool
    """Holds all that was acknowledged, and could be the next primary."""
    probe: int | None = None
    """The probe that this answers."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Primary to backup: a whole copy; comes with the tensors of the same moment."""

    number: int
    table: Table


PeerMessage: TypeAlias = Append | Probe | Position | Snapshot
