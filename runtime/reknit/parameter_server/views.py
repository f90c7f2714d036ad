"""Who serves a range and who trains with it: told from outside, obeyed inside. Pure.

Views follow viewstamped replication (Oki and Liskov, PODC 1988): a number that only grows names one
pair of primary and backup, and everything that belongs to an older number is void.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that trains at present."""

    worker: int
    """Its place among the workers; kept by whoever takes it over."""
    incarnation: int
    """Grows with each process that takes the place."""
    start: int = 0
    """The first clock that it pushes if the range has not heard of the place before."""


@dataclass(frozen=True, slots=True)
class View:
    """One range's servers and workers.

    `number` grows by one with each change of the servers. `roster` grows with each change of the
    workers, under the same number or with the next one; it means the same workers in every range.
    Names of servers belong to processes: one that is started again has a new name.
    """

    number: int
    roster: int
    primary: str
    backup: str | None
    members: tuple[Member, ...]
    """In the order of their places."""
    founds: bool = False
    """With this number the range begins anew, and empty: whatever a server holds of it is void."""

    @property
    def key(self) -> tuple[int, int]:
        """The ordering of views."""
        return (self.number, self.roster)

    def member(self, worker: int) -> Member | None:
        """Who has this place."""
        return next((member for member in self.members if member.worker == worker), None)


def succeed(
    view: View, *, alive: Collection[str], complete: Collection[str], spares: Sequence[str]
) -> View | None:
    """The next view after servers have died; None if there is nothing to change.

    None also if the range is lost (`is_lost`). Before a view with another primary takes effect, the
    lease of the old one must have run out, or its process must be known to have ended.

    Args:
        view: the latest one.
        alive: servers whose processes are alive.
        complete: servers that hold all that was acknowledged, by what they said in this view.
        spares: live servers without a part in this range, the best first.
    """
    backup = view.backup if view.backup in alive else None
    primary = view.primary if view.primary in alive else None
    if primary is None:
        primary, backup = (backup if backup in complete else None), None
    if primary is None:
        return None
    if backup is None:
        backup = next((name for name in spares if name != primary), None)
    if (primary, backup) == (view.primary, view.backup):
        return None
    return View(view.number + 1, view.roster, primary, backup, view.members)


def is_lost(view: View, *, alive: Collection[str], complete: Collection[str]) -> bool:
    """Whether no live server holds the range completely: it has to come from a checkpoint."""
    if view.primary in alive:
        return False
    return view.backup not in alive or view.backup not in complete
