"""What a membership is told, and what it asks for: plain values."""

from dataclasses import dataclass
from typing import TypeAlias

from reknit.coordinator.state import Membership
from reknit.protocol.agents import FromAgent, ToAgent
from reknit.protocol.status import Record


@dataclass(frozen=True, slots=True)
class Received:
    """An agent said something; connections are numbered and never used twice."""

    connection: int
    message: FromAgent


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection is closed."""

    connection: int


@dataclass(frozen=True, slots=True)
class ConfirmedGone:
    """The operator knows that this pod has no process any more."""

    agent: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = Received | Disconnected | ConfirmedGone | Tick


@dataclass(frozen=True, slots=True)
class Send:
    """Say this through a connection."""

    connection: int
    message: ToAgent


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close a connection, after what was to be said through it."""

    connection: int


@dataclass(frozen=True, slots=True)
class Write:
    """Add a record to the history."""

    record: Record


@dataclass(frozen=True, slots=True)
class StepDown:
    """Stop: a coordinator of a higher incarnation is at work."""

    incarnation: int


Action: TypeAlias = Send | HangUp | Write | StepDown
Outcome: TypeAlias = tuple[Membership, tuple[Action, ...]]
