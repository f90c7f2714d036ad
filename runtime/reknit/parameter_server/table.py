"""What the copies of a range agree on beside tensors: versions and clocks. Pure.

A range is a replicated state machine: primary and backup apply the same entries in the same order,
and from equal tables and tensors come to equal ones. A worker's *clock* numbers its steps, as in
the stale synchronous parallel model (Ho et al., NeurIPS 2013); its entry in the table of clocks is
the next one that it has not pushed, so a push is applied once however often it is sent (Li et al.,
OSDI 2014).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from reknit.parameter_server.views import Member


class Consistency(StrEnum):
    """When pushes take effect, and which ones a pull sees."""

    SYNCHRONOUS = "Synchronous"
    """Once all workers have pushed a clock, the sum is applied; a pull sees exactly its clock."""
    ASYNCHRONOUS = "Asynchronous"
    """Each push at once; a pull sees whatever there is, its worker's own pushes included."""
    STALE_SYNCHRONOUS = "StaleSynchronous"
    """The same, but a worker that is too far ahead of the slowest one waits when it pulls."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How a range is updated.

    Raises:
        ValueError: a staleness below 0, or one where it would mean nothing.
    """

    consistency: Consistency
    max_staleness: int = 0
    """Clocks that a worker may be ahead of the slowest one."""

    def __post_init__(self) -> None:
        bounded = self.consistency is Consistency.STALE_SYNCHRONOUS
        if self.max_staleness < 0 or (self.max_staleness and not bounded):
            raise ValueError("a largest staleness from 0 on belongs to StaleSynchronous alone")

    @property
    def is_synchronous(self) -> bool:
        """Whether workers take each step together."""
        return self.consistency is Consistency.SYNCHRONOUS


@dataclass(frozen=True, slots=True)
class Pushed:
    """A gradient in the order of a range."""

    worker: int
    incarnation: int
    clock: int
    payload: object = field(compare=False)
    """The gradient, which nothing here looks into."""


@dataclass(frozen=True, slots=True)
class Seated:
    """A change of the workers in the order of a range."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """All that is held gives way to a version from elsewhere; the workers' clocks begin there."""

    origin: int
    """Grows; whoever asks for the same one again changes nothing."""
    version: int
    source: str
    """The name of a checkpoint; empty: the values that the job begins with."""


Entry: TypeAlias = Pushed | Seated | Restored


@dataclass(frozen=True, slots=True)
class Update:
    """The optimizer takes a step with the sum of these, added in this order."""

    pushes: tuple[Pushed, ...]


Effect: TypeAlias = Update | Restored
"""What an entry does to the tensors."""


@dataclass(frozen=True, slots=True)
class Table:
    """The state of one copy after `index` entries."""

    index: int = 0
    """-1: nothing is held, not even what the range began with."""
    term: int = 0
    """The view in which the last entry was ordered: with the index it names all that came before
    (Ongaro and Ousterhout, USENIX ATC 2014)."""
    version: int = 0
    """Updates of the optimizer; in synchronous mode also the clock that is being collected."""
    clocks: Mapping[int, int] = field(default_factory=dict)
    """By worker; of those that have left, too."""
    members: tuple[Member, ...] = ()
    pending: Mapping[int, Pushed] = field(default_factory=dict)
    """In synchronous mode: pushes of the present clock, by worker."""
    origin: int = 0
    """Of the latest `Restored`; 0 before the first one."""


class Standing(StrEnum):
    """What a push is to the table that it meets."""

    NEW = "new"
    KNOWN = "known"
    EARLY = "early"
    """Not the next one of this worker."""


class Readiness(StrEnum):
    """Whether a pull can be answered."""

    READY = "ready"
    WAIT = "wait"
    GONE = "gone"
    """What it asks for has been overwritten."""


def advance(table: Table, entry: Entry, term: int, mode: Mode) -> tuple[Table, Effect | None]:
    """The table after one more entry, and what that does to the tensors."""
    table = replace(table, index=table.index + 1, term=term)
    if isinstance(entry, Seated):
        return _seat(table, entry.members, mode), None
    if isinstance(entry, Restored):
        return _restore(table, entry), entry
    clocks = {**table.clocks, entry.worker: entry.clock + 1}
    if not mode.is_synchronous:
        return replace(table, clocks=clocks, version=table.version + 1), Update((entry,))
    pending = {**table.pending, entry.worker: entry}
    if pending.keys() < contributors(table.members, table.version):
        return replace(table, clocks=clocks, pending=pending), None
    pushes = tuple(pending[worker] for worker in sorted(pending))
    return replace(table, clocks=clocks, pending={}, version=table.version + 1), Update(pushes)


def contributors(members: tuple[Member, ...], clock: int) -> frozenset[int]:
    """The workers whose pushes make up a clock in synchronous mode."""
    return frozenset(member.worker for member in members if member.start <= clock)


def standing(table: Table, worker: int, clock: int, mode: Mode) -> Standing:
    """How a push of a present member compares with what is in the table."""
    expected = table.clocks[worker]
    if clock < expected or (mode.is_synchronous and clock < table.version):
        return Standing.KNOWN
    if clock > expected or (mode.is_synchronous and clock > table.version):
        return Standing.EARLY
    return Standing.NEW


def readiness(table: Table, worker: int, clock: int, mode: Mode) -> Readiness:
    """Whether a present member's pull for its step `clock` can be answered.

    In synchronous mode the version before the newest one is kept: one range may be a step ahead of
    another, and a worker that takes over a place needs both at the same version.
    """
    if mode.is_synchronous:
        if clock > table.version:
            return Readiness.WAIT
        return Readiness.READY if clock >= table.version - 1 else Readiness.GONE
    if table.clocks[worker] < clock:
        return Readiness.WAIT
    if mode.consistency is Consistency.STALE_SYNCHRONOUS:
        slowest = min(table.clocks[member.worker] for member in table.members)
        if clock > slowest + mode.max_staleness:
            return Readiness.WAIT
    return Readiness.READY


def behind(table: Table) -> dict[int, int]:
    """For each present worker, by how many clocks the fastest one is ahead of it."""
    clocks = {member.worker: table.clocks[member.worker] for member in table.members}
    fastest = max(clocks.values(), default=0)
    return {worker: fastest - clock for worker, clock in clocks.items()}


def settled(table: Table) -> Table:
    """What a checkpoint holds of a table: no workers, and no clock that is only half collected."""
    clocks = {**table.clocks, **dict.fromkeys(table.pending, table.version)}
    return replace(table, clocks=clocks, members=(), pending={})


def _restore(table: Table, entry: Restored) -> Table:
    workers = {*table.clocks, *(member.worker for member in table.members)}
    return replace(
        table,
        version=entry.version,
        clocks=dict.fromkeys(workers, entry.version),
        pending={},
        origin=entry.origin,
    )


def _seat(table: Table, members: tuple[Member, ...], mode: Mode) -> Table:
    """Takes over the workers of a new view.

    In synchronous mode the work of a clock is divided among its contributors. If they change, what
    was pushed for the present clock is given up, and the new ones compute it once more.
    """
    clocks, pending = dict(table.clocks), table.pending
    if mode.is_synchronous:
        present, coming = (contributors(m, table.version) for m in (table.members, members))
        if present != coming:
            clocks |= dict.fromkeys(pending, table.version)
            pending = {}
    for member in members:
        known = clocks.get(member.worker, 0)
        if mode.is_synchronous and member.worker not in pending:
            known = max(known, table.version)
        clocks[member.worker] = max(known, member.start)
    return replace(table, members=members, clocks=clocks, pending=pending)
