"""From what each rank says about a step to one record of the step: pure.

A version counts as committed by the generation when all its ranks hold it. A rank's message may be
lost when its agent changes the connection; a later version of the same rank stands for it. So every
version has a record, if need be one without figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Final, TypeAlias

from reknit.protocol.base import Generation
from reknit.protocol.ranks import StepDone
from reknit.protocol.status import Progress, StepRecord

RATE_STEPS: Final = 20
"""Steps over which the speed is averaged."""
MAX_RECALLED: Final = 10_000
"""Steps at once that nobody was there to record, as many as a coordinator keeps."""

Reports: TypeAlias = Mapping[int, Mapping[int, StepDone]]
"""By version, then by rank."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The versions of the job and of its current generation."""

    committed: int = 0
    """Highest version that all ranks of some generation held."""
    versions: tuple[int, ...] = ()
    """Latest version of each rank in the current generation."""
    emitted: int = 0
    """Latest version of the current generation that a record was written for."""
    reports: Reports = field(default_factory=dict)
    """What ranks said about versions that are not complete yet."""
    left_over: Reports = field(default_factory=dict)
    """What ranks of ended generations said about versions that were not complete there. Such a
    version is committed all the same if training goes on from it."""
    marks: tuple[tuple[float, int], ...] = ()
    """(time, version) of the latest records of the current generation."""
    total_steps: int | None = None
    last: StepRecord | None = None
    redone: int = 0
    """Steps that were committed and had to be computed again."""
    first: float | None = None
    """When the first step began."""
    productive: float = 0.0
    """Seconds spent on steps that were committed for the first time."""


def begin(steps: Steps, versions: Iterable[int]) -> Steps:
    """Turns to a new generation whose ranks hold these versions."""
    held = tuple(versions)
    for of in steps.reports.values():
        for rank, done in of.items():
            steps = remember(steps, rank, done)
    return replace(
        steps,
        versions=held,
        committed=max(steps.committed, min(held)),
        emitted=min(held),
        reports={},
        marks=(),
    )


def remember(steps: Steps, rank: int, done: StepDone) -> Steps:
    """A rank of a generation that has ended, or is about to, had completed one more step."""
    if done.step <= steps.committed:
        return steps
    of = {**steps.left_over.get(done.step, {}), rank: done}
    return replace(steps, left_over={**steps.left_over, done.step: of})


def recall(
    steps: Steps,
    generation: Generation,
    start: int,
    versions: Sequence[int],
    told: Iterable[tuple[int, StepDone]],
    now: float,
) -> tuple[Steps, tuple[StepRecord, ...]]:
    """Takes up a generation whose ranks went from version `start` to these versions unheard.

    `told` has steps with their rank, as far as agents remember them. Also the records of the latest
    `MAX_RECALLED` steps; of a step that nobody remembers only the figures are missing.
    """
    steps = begin(steps, versions)
    reports: dict[int, dict[int, StepDone]] = {}
    for rank, done in told:
        reports.setdefault(done.step, {})[rank] = done
    until = min(versions)
    records = tuple(
        summarize(generation, version, reports.get(version, {}), now)
        for version in range(max(start, until - MAX_RECALLED) + 1, until + 1)
    )
    totals = [r.total_steps for r in records if r.total_steps is not None]
    recalled = replace(
        steps,
        reports={version: of for version, of in reports.items() if version > until},
        last=records[-1] if records else steps.last,
        total_steps=totals[-1] if totals else steps.total_steps,
    )
    return recalled, records


def resume(steps: Steps, step: int, now: float) -> tuple[Steps, int, tuple[StepRecord, ...]]:
    """The ranks start from version `step`; also the number of steps to be redone.

    And the records of steps that only survivors of an ended generation had completed.
    """
    records = []
    for version in sorted(steps.left_over):
        if steps.committed < version <= step:
            of = steps.left_over[version]
            generation = next(iter(of.values())).generation
            records.append(summarize(generation, version, of, now))
            steps = replace(_count(steps, records[-1], now), marks=())
    redone = max(0, steps.committed - step)
    versions = tuple(max(step, version) for version in steps.versions)
    resumed = replace(
        steps,
        committed=max(steps.committed, step),
        redone=steps.redone + redone,
        versions=versions,
        emitted=max(steps.emitted, step),
        left_over={},
    )
    return resumed, redone, tuple(records)


def report(
    steps: Steps, generation: Generation, rank: int, done: StepDone, now: float
) -> tuple[Steps, tuple[StepRecord, ...]]:
    """One rank holds one more version; also the records of versions that are complete now."""
    if done.step <= steps.versions[rank]:
        return steps, ()
    versions = (*steps.versions[:rank], done.step, *steps.versions[rank + 1 :])
    of_version = {**steps.reports.get(done.step, {}), rank: done}
    reports = {**steps.reports, done.step: of_version}
    steps = replace(
        steps,
        versions=versions,
        reports=reports,
        total_steps=done.total_steps if done.total_steps is not None else steps.total_steps,
    )
    complete: Sequence[int] = sorted(v for v in reports if steps.emitted < v <= min(versions))
    if steps.marks:
        # Since the first record of the generation no version is left out, even if all that was
        # said about it is lost.
        start = max(steps.emitted, min(versions) - MAX_RECALLED)
        complete = range(start + 1, min(versions) + 1)
    records = []
    for version in complete:
        record = summarize(generation, version, reports.get(version, {}), now)
        records.append(record)
        steps = _count(steps, record, now)
    if complete:
        rest = {v: of for v, of in reports.items() if v > complete[-1]}
        steps = replace(steps, reports=rest)
    return steps, tuple(records)


def _count(steps: Steps, record: StepRecord, now: float) -> Steps:
    is_new = record.step > steps.committed
    seconds = record.seconds.get("total", 0.0)
    spent = seconds if is_new else 0.0
    return replace(
        steps,
        emitted=record.step,
        committed=max(steps.committed, record.step),
        marks=(*steps.marks, (now, record.step))[-RATE_STEPS:],
        last=record,
        first=now - seconds if steps.first is None else steps.first,
        productive=steps.productive + spent,
    )


def summarize(
    generation: Generation, version: int, reports: Mapping[int, StepDone], now: float
) -> StepRecord:
    """The record of one version: means over the ranks that reported it.

    A figure that not all ranks gave is averaged over those that gave it; without any report there
    is none.
    """
    dones = [reports[rank] for rank in sorted(reports)]
    return StepRecord(
        time=now,
        generation=generation,
        step=version,
        total_steps=dones[0].total_steps if dones else None,
        skipped=any(done.skipped for done in dones),
        samples=max((done.samples for done in dones), default=0),
        metrics=_means([done.metrics for done in dones]),
        seconds=_means([done.seconds for done in dones]),
        memory_bytes={rank: reports[rank].memory_bytes for rank in sorted(reports)},
    )


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for of_rank in figures for name in of_rank)
    return {name: mean([f[name] for f in figures if name in f]) for name in names}


def mean(values: list[float]) -> float:
    """The mean; of equal values exactly that value, so that ranks that agree are not rounded."""
    if all(value == values[0] for value in values):
        return values[0]
    if any(value - value != 0 for value in values):  # not finite, which fsum refuses to add
        return sum(values) / len(values)
    return fsum(values) / len(values)


def speed(steps: Steps) -> float | None:
    """Steps per second of the current generation; None before it has made two."""
    if len(steps.marks) < 2:
        return None
    (start, first), (end, last) = steps.marks[0], steps.marks[-1]
    return (last - first) / (end - start) if end > start else None


def effective_ratio(steps: Steps, now: float) -> float | None:
    """Share of the time since the first step began that went into steps that were kept."""
    if steps.first is None or now <= steps.first:
        return None
    return min(1.0, steps.productive / (now - steps.first))


def progress(steps: Steps) -> Progress:
    """How far training is, for the operator and displays.

    While the ranks of a generation have not resumed, that is how far the one before had come.
    """
    rate = speed(steps)
    samples = steps.last.samples if steps.last else 0
    step = steps.emitted or steps.committed
    left = steps.total_steps - step if steps.total_steps is not None else None
    return Progress(
        step=step,
        total_steps=steps.total_steps,
        loss=steps.last.metrics.get("loss") if steps.last else None,
        samples_per_second=rate * samples if rate is not None and samples else None,
        remaining_seconds=max(0, left) / rate if rate and left is not None else None,
    )
