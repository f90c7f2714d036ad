"""Parameter servers: what coordinator, agents, servers and workers tell each other about them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from reknit.parameter_server.views import Member, View
from reknit.protocol.base import Message


class Views(Message):
    """Who serves which range for whom; the coordinator's word to agents, and theirs to processes.

    Of two of them the one of the higher incarnation counts, and of one incarnation the later one.
    """

    kind: Literal["views"] = "views"
    incarnation: int
    """Of the coordinator that has decided it."""
    servers: tuple[View, ...]
    """By the range's number; without workers, who are the same in all of them."""
    roster: int = 0
    members: tuple[Member, ...] = ()
    addresses: dict[str, str]
    """host:port of servers, by name."""

    @classmethod
    def of(cls, incarnation: int, ranges: Sequence[View], addresses: dict[str, str]) -> "Views":
        """The views of all ranges, in one message."""
        return cls(
            incarnation=incarnation,
            servers=tuple(replace(view, roster=0, members=()) for view in ranges),
            roster=ranges[0].roster if ranges else 0,
            members=ranges[0].members if ranges else (),
            addresses=addresses,
        )

    @property
    def ranges(self) -> tuple[View, ...]:
        """The views, whole."""
        return tuple(
            replace(view, roster=self.roster, members=self.members) for view in self.servers
        )


class RangeReport(Message):
    """What a server says of its copy of a range."""

    number: int
    """Of the view that it knows."""
    is_primary: bool = False
    complete: bool = False
    """Could be the next primary."""
    protected: bool = False
    """A primary whose backup is complete."""
    version: int = 0
    clocks_behind: dict[int, int] = Field(default_factory=dict)
    """By worker: clocks of the fastest one that it has not pushed."""
    backup_silent_seconds: float = 0.0


class Serving(Message):
    """Server to agent, from time to time: where it is, what it holds, and a request for leases."""

    kind: Literal["serving"] = "serving"
    name: str
    """Of this process; never used by another one."""
    address: str
    """host:port."""
    asked_at: float
    """By the server's clock; comes back with the leases, which are counted from it."""
    ranges: dict[int, RangeReport] = Field(default_factory=dict)
    figures: dict[str, float] = Field(default_factory=dict)
    """Counts since the start, as `Server.metrics` has them."""


class Leases(Message):
    """Coordinator to the server that has asked: it appoints no other primary in this time."""

    kind: Literal["leases"] = "leases"
    name: str
    asked_at: float
    seconds: float
    ranges: dict[int, int]
    """The numbers of the views that this counts for, by range."""


class FromServer(Message):
    """Agent to coordinator: what its server said, passed on."""

    kind: Literal["server"] = "server"
    launch: int
    """Which of the agent's processes it is."""
    message: Serving


class ServerEnded(Message):
    """Agent to coordinator: that process is gone."""

    kind: Literal["server_ended"] = "server_ended"
    launch: int
