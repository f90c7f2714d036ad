"""What a coordinator knows of parameter servers, and which of them is to serve what. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from reknit.parameter_server.plan import place_ranges
from reknit.parameter_server.views import Member, View, is_lost, succeed
from reknit.protocol.servers import RangeReport, Serving, Views

REPORT_WAIT: Final = 1.0
"""Seconds after the loss of a primary in which its backup may still say that it is complete."""


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A process that holds ranges, or could."""

    name: str
    agent: str
    launch: int
    address: str
    ranges: Mapping[int, RangeReport] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def report(self, number: int, view: View) -> RangeReport | None:
        """What it says of a range in this view; None before it knows the view."""
        found = self.ranges.get(number)
        return found if found is not None and found.number == view.number else None


@dataclass(frozen=True, slots=True)
class Fleet:
    """All servers of the job. Times are seconds of the coordinator's clock."""

    processes: Mapping[str, ServerProcess] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    """Names of processes that certainly are no more."""
    seen: frozenset[str] = frozenset()
    """Names of all processes that this coordinator has heard."""
    views: tuple[View, ...] = ()
    """By range; empty before the ranges are founded."""
    leases: tuple[float, ...] = ()
    """Until when the primary of each range may serve, at most."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """host:port of all servers that the views name."""
    orphaned: Mapping[int, float] = field(default_factory=dict)
    """Since when ranges have no primary that lives."""
    is_protected: bool = False
    """Whether every range was seen to have two complete copies, since it was changed last."""
    told: Mapping[str, tuple[int, Views]] = field(default_factory=dict)
    """By agent: the connection through which it heard of views last, and those."""

    @property
    def roster(self) -> int:
        """Of the present workers."""
        return self.views[0].roster if self.views else 0

    def heard(self, agent: str, launch: int, message: Serving) -> "Fleet":
        """A server has spoken; an agent has one at a time, so earlier ones are no more."""
        former = {
            name
            for name, process in self.processes.items()
            if process.agent == agent and name != message.name
        }
        process = ServerProcess(
            message.name, agent, launch, message.address, message.ranges, message.figures
        )
        fleet = self.without(former)
        processes = {**fleet.processes, message.name: process}
        return replace(fleet, processes=processes, seen=fleet.seen | {message.name})

    def ended_at(self, agent: str, launch: int) -> "Fleet":
        """An agent says that its process is gone."""
        return self.without(
            name
            for name, process in self.processes.items()
            if (process.agent, process.launch) == (agent, launch)
        )

    def without(self, names: Iterable[str], *, certain: bool = True) -> "Fleet":
        """These processes are no more, or not heard any more."""
        gone = frozenset(names)
        if not gone:
            return self
        kept = {name: process for name, process in self.processes.items() if name not in gone}
        return replace(self, processes=kept, ended=self.ended | gone if certain else self.ended)

    def leased(self, numbers: Collection[int], until: float) -> "Fleet":
        """The primaries of these ranges may serve until then."""
        leases = tuple(
            max(lease, until) if number in numbers else lease
            for number, lease in enumerate(self.leases)
        )
        return replace(self, leases=leases)

    def learned(self, views: Views, until: float) -> "Fleet":
        """What an earlier coordinator has decided, as an agent was told it."""
        if self.views and any(
            mine.key >= theirs.key for mine, theirs in zip(self.views, views.ranges, strict=True)
        ):
            return self
        leases = (until,) * len(views.ranges)
        return replace(self, views=views.ranges, leases=leases, addresses=views.addresses)

    def seated(self, members: tuple[Member, ...], roster: int) -> "Fleet":
        """Other workers train from now on."""
        views = tuple(replace(view, roster=roster, members=members) for view in self.views)
        return replace(self, views=views)

    def published(self, incarnation: int) -> Views:
        """What agents are told."""
        names = {name for view in self.views for name in (view.primary, view.backup) if name}
        addresses = {name: a for name, a in self.addresses.items() if name in names}
        return Views.of(incarnation, self.views, addresses)


def found(fleet: Fleet, order: list[str], copies: int) -> Fleet:
    """The first views: every server, in this order, is the primary of one range."""
    views = tuple(
        View(1, 0, order[primary], None if backup is None else order[backup], (), founds=True)
        for primary, backup in place_ranges(len(order), copies)
    )
    return _with_views(replace(fleet, leases=(0.0,) * len(views)), views)


def complete(fleet: Fleet, number: int) -> set[str]:
    """The servers that hold all of a range, by what they said in its present view."""
    view = fleet.views[number]
    reports = {name: p.report(number, view) for name, p in fleet.processes.items()}
    return {name for name, report in reports.items() if report is not None and report.complete}


def is_protected(fleet: Fleet, number: int) -> bool:
    """Whether the loss of any one server leaves a complete copy of a range."""
    view = fleet.views[number]
    process = fleet.processes.get(view.primary)
    report = None if process is None else process.report(number, view)
    return report is not None and report.protected


def version_of(fleet: Fleet, number: int) -> int:
    """Updates of a range, as its primary has said last."""
    process = fleet.processes.get(fleet.views[number].primary)
    report = None if process is None else process.ranges.get(number)
    return 0 if report is None else report.version


def staleness(fleet: Fleet) -> dict[int, int]:
    """By worker: clocks that it is behind the fastest one, in whichever range that is most."""
    behind: dict[int, int] = {}
    for number, view in enumerate(fleet.views):
        process = fleet.processes.get(view.primary)
        report = None if process is None else process.report(number, view)
        for worker, clocks in (report.clocks_behind if report is not None else {}).items():
            behind[worker] = max(clocks, behind.get(worker, 0))
    return behind


@dataclass(frozen=True, slots=True)
class Change:
    """Another view of a range."""

    number: int
    former: View
    view: View

    @property
    def sentence(self) -> str:
        """For people."""
        if self.view.founds:
            return f"range {self.number} is lost with {self.former.primary}, and begins anew"
        if self.view.primary != self.former.primary:
            return (
                f"{self.view.primary} serves range {self.number} instead of {self.former.primary}"
            )
        backup = self.view.backup or "nobody"
        return f"{backup} is the backup of range {self.number} instead of {self.former.backup}"


def next_views(
    fleet: Fleet,
    alive: Collection[str],
    ready: Collection[str],
    copies: int,
    *,
    silent_limit: float,
    now: float,
) -> tuple[Fleet, tuple[Change, ...]]:
    """Replaces servers that are no more, as far as leases and copies allow it at `now`.

    Args:
        fleet: with views.
        alive: the names of servers that live, as far as known.
        ready: of those that can be given more to hold.
        copies: how many each range is to have.
        silent_limit: seconds after which a backup that owes an answer is replaced.
        now: by the coordinator's clock.
    """
    changes = []
    orphaned = {
        number: fleet.orphaned.get(number, now)
        for number, view in enumerate(fleet.views)
        if view.primary not in alive
    }
    fleet = replace(fleet, orphaned=orphaned)
    for number in range(len(fleet.views)):
        former = fleet.views[number]
        spares = _spares(fleet, ready, fleet.views[number])
        view = _following(fleet, number, alive, spares, copies, silent_limit, now)
        if view is not None:
            views = (*fleet.views[:number], view, *fleet.views[number + 1 :])
            fleet = _with_views(fleet, views)
            changes.append(Change(number, former, view))
    return fleet, tuple(changes)


def _following(
    fleet: Fleet,
    number: int,
    alive: Collection[str],
    spares: list[str],
    copies: int,
    silent_limit: float,
    now: float,
) -> View | None:
    view = fleet.views[number]
    if view.primary not in alive and view.primary not in fleet.ended and now < fleet.leases[number]:
        return None
    whole = complete(fleet, number)
    if is_lost(view, alive=alive, complete=whole):
        # What the backup said last may be older than what it holds.
        if not spares or (view.backup in alive and now < fleet.orphaned[number] + REPORT_WAIT):
            return None
        backup = spares[1] if copies > 1 and len(spares) > 1 else None
        return View(view.number + 1, view.roster, spares[0], backup, view.members, founds=True)
    usable = set(alive)
    process = fleet.processes.get(view.primary)
    report = None if process is None else process.report(number, view)
    if report is not None and report.backup_silent_seconds > silent_limit:
        usable.discard(view.backup or "")
        spares = [name for name in spares if name != view.backup]
    spares = [name for name in spares if name not in (view.primary, view.backup)]
    return succeed(view, alive=usable, complete=whole, spares=spares if copies > 1 else ())


def _spares(fleet: Fleet, ready: Collection[str], view: View) -> list[str]:
    """Those without a part in the view first, and of them those with the fewest copies."""
    load = Counter(name for v in fleet.views for name in (v.primary, v.backup) if name is not None)
    return sorted(ready, key=lambda name: (name in (view.primary, view.backup), load[name], name))


def _with_views(fleet: Fleet, views: tuple[View, ...]) -> Fleet:
    known = {name: process.address for name, process in fleet.processes.items()}
    return replace(fleet, views=views, addresses={**fleet.addresses, **known})
