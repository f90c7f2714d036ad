"""What the agent's state machine is told, and what it asks for: plain values."""

from dataclasses import dataclass
from typing import TypeAlias

from reknit.protocol.agents import FromAgent, ToAgent
from reknit.protocol.base import Endpoint
from reknit.protocol.outcome import Conclusion, ErrorReport
from reknit.protocol.ranks import Assign, FromRank, ToRank


@dataclass(frozen=True, slots=True)
class Connected:
    """A new connection to a coordinator stands."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone; another one will be tried."""


@dataclass(frozen=True, slots=True)
class Received:
    """The coordinator said something."""

    message: ToAgent


@dataclass(frozen=True, slots=True)
class Ready:
    """Processes can be started; `problem` is what the check of the user's part found."""

    problem: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """A fresh listener for the store of a coming generation."""

    store: Endpoint


@dataclass(frozen=True, slots=True)
class Started:
    """The process of a launch exists."""

    launch: int
    pid: int


@dataclass(frozen=True, slots=True)
class Said:
    """A rank said something."""

    launch: int
    message: FromRank


@dataclass(frozen=True, slots=True)
class Ended:
    """The process of a launch is gone; everything it said came before this.

    Exactly one of `exit_code` and `signal` is set.
    """

    launch: int
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    """The kernel killed a process of this pod for memory just now."""


@dataclass(frozen=True, slots=True)
class Terminated:
    """SIGTERM: the pod is to be gone within the grace period."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A heartbeat is due."""

    at_work: frozenset[int] = frozenset()
    """The launches whose process was at work since the last tick, whether or not it spoke."""


Event: TypeAlias = (
    Connected
    | Disconnected
    | Received
    | Ready
    | Offered
    | Started
    | Said
    | Ended
    | Terminated
    | Tick
)


@dataclass(frozen=True, slots=True)
class Send:
    """Tell the coordinator."""

    message: FromAgent


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection and try again: this coordinator has been replaced."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a rank process; its place comes later."""

    launch: int
    """Names the process; never used twice."""


@dataclass(frozen=True, slots=True)
class GivePlace:
    """Give a rank process, new or not, this place in a generation."""

    launch: int
    assign: Assign
    hosts_store: bool
    """Hand the offered listener to this process, and offer a fresh one."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Start a command for this place of a generation."""

    launch: int
    """Names the process; never used twice."""
    assign: Assign
    hosts_store: bool
    """The offered address is used up; offer a fresh one."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a rank."""

    launch: int
    message: ToRank


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the process and everything it started."""

    launch: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM to a command and everything it started."""

    launch: int


@dataclass(frozen=True, slots=True)
class Exit:
    """Write the termination message and exit."""

    conclusion: Conclusion
    code: int


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the pod's log."""

    text: str


Action: TypeAlias = (
    Send | HangUp | Launch | GivePlace | Execute | Tell | Kill | Terminate | Exit | Log
)
