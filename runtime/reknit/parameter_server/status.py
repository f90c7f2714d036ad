"""What a copy of a range tells the coordinator, metrics and people. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from reknit.parameter_server.state import RangeState
from reknit.parameter_server.table import behind


@dataclass(frozen=True, slots=True)
class Status:
    """One copy at one moment."""

    number: int
    """Of the view that it knows."""
    is_primary: bool
    serves: bool
    complete: bool
    """Could be the next primary."""
    protected: bool
    """A primary whose backup is complete."""
    version: int
    """Updates of the optimizer."""
    clocks_behind: Mapping[int, int]
    """By worker: clocks of the fastest one that it has not pushed."""
    num_waiting: int
    """Requests that cannot be answered yet."""
    num_logged: int
    """Entries that the backup is not known to hold."""
    lease_seconds: float
    """Of a primary: what is left."""
    backup_silent_seconds: float
    """For how long the backup has owed an answer. Once this is too long, the coordinator should
    replace the backup: without it, or an answer from it, nothing is acknowledged."""


def status(state: RangeState, now: float) -> Status:
    """The copy at time `now`, in seconds of this server's clock."""
    feed = state.feed
    silent = now - feed.asked_at if feed is not None and feed.is_open else 0.0
    return Status(
        number=state.number,
        is_primary=state.is_primary,
        serves=state.serves(now),
        complete=state.complete,
        protected=feed is not None and feed.complete,
        version=state.applied.version,
        clocks_behind=behind(state.applied),
        num_waiting=len(state.waiting),
        num_logged=state.log.last - state.applied.index if feed is None else len(state.log.entries),
        lease_seconds=max(0.0, state.lease_until - now) if state.is_primary else 0.0,
        backup_silent_seconds=silent,
    )
