"""Which version of the state a new generation goes on from.

A pure function of what all ranks report, the same whatever their order: every rank works it out by
itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Report:
    """How far one rank of the new generation is."""

    rank: int
    version: int | None
    """The version that it holds; None for a newcomer, which holds nothing."""
    prepared: bool
    """Once it learns the outcome of the gate, it can complete the next step by itself."""
    gate: int | None
    """The version that the newest step led to, or leads to, whose gate's outcome it knows."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all ranks go on from."""

    target: int | None
    """The version; None if nobody holds anything."""
    behind: frozenset[int]
    """Ranks that have to complete the step that leads to the target before they hold it."""
    supplier: int | None
    """A rank that knows the outcome of that step's gate; None if nobody does."""
    excluded: frozenset[int]
    """Ranks that hold another version and cannot come to the target: what they hold is void."""


def agree(reports: Iterable[Report]) -> Agreement:
    """The highest version that a survivor holds, or that all of the foremost could complete.

    A gate is passed only when all ranks have prepared. A report that says otherwise (of a rank that
    is further behind, or not prepared for a step that others have passed) is of one that took no
    part in that step, and excludes it.
    """
    held = {r.rank: (r.version, r) for r in reports if r.version is not None}
    if not held:
        return Agreement(None, frozenset(), None, frozenset())
    target = max(version for version, _ in held.values())
    foremost = [report for version, report in held.values() if version == target]
    if any(_knows(report, target + 1) for report in foremost) and all(map(_is_ready, foremost)):
        target += 1
    knowing = [rank for rank, (_, report) in held.items() if _knows(report, target)]
    behind = frozenset(
        rank
        for rank, (version, report) in held.items()
        if knowing and version == target - 1 and _is_ready(report)
    )
    at_target = {rank for rank, (version, _) in held.items() if version == target}
    excluded = frozenset(held.keys() - at_target - behind)
    return Agreement(target, behind, min(knowing, default=None), excluded)


def _knows(report: Report, version: int) -> bool:
    """Whether the rank knows the outcome of the step to `version`, as one that took part in it."""
    return report.gate == version and report.version in (version - 1, version)


def _is_ready(report: Report) -> bool:
    return report.prepared or (report.version is not None and _knows(report, report.version + 1))
