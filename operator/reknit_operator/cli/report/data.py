"""From a history to what the report shows. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Final

from reknit.protocol.status import EventRecord, Record, StepRecord
from reknit_operator.cli.display.view import View, fold

PARTS: Final = ("data", "forward", "backward", "communication", "update", "checkpoint")
"""Parts of a step's time, in the order in which they happen."""
FAULTS: Final = frozenset({"RankExited", "Hung", "ConnectionLost", "AgentLost", "CheckpointFailed"})
_ENDS: Final = frozenset(
    {"RankExited", "Hung", "ConnectionLost", "AgentLost", "GenerationEnded", "Concluded"}
)


@dataclass(frozen=True, slots=True)
class GenerationSpan:
    """One generation on the clock, in seconds since the first record."""

    name: str
    start: float
    ready: float
    """When its ranks had their state; its end if that never came."""
    stop: float
    ranks: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, in seconds since the first record."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """What the history of a run says."""

    view: View
    start: float
    """Seconds since the epoch."""
    steps: tuple[StepRecord, ...]
    """One per step, the last time that it was taken."""
    losses: tuple[tuple[int, float], ...]
    evaluations: tuple[tuple[int, float], ...]
    """(step, loss) on held-out data; of another figure if there is no loss."""
    evaluated: str
    """Name of that figure."""
    recovered_at: tuple[int, ...]
    """Steps that recoveries went back to."""
    generations: tuple[GenerationSpan, ...]
    faults: tuple[Mark, ...]
    recoveries: tuple[Mark, ...]
    checkpoints: tuple[Mark, ...]
    held_out_marks: tuple[Mark, ...]
    events: tuple[EventRecord, ...]
    peak_memory: tuple[tuple[int, int], ...]
    """(rank, bytes)."""

    @property
    def seconds(self) -> float:
        """Length of the history."""
        return self.view.elapsed


def gather(name: str, records: Sequence[Record]) -> ReportData:
    """Sorts a history, which has at least one record."""
    view = fold(View(name), records)
    assert view.started is not None
    start = view.started
    steps = [record for record in records if isinstance(record, StepRecord)]
    events = [record for record in records if isinstance(record, EventRecord)]
    last = {record.step: record for record in steps}
    taken = tuple(last[step] for step in sorted(last))
    evaluated, evaluations = _evaluations(events)
    return ReportData(
        view=view,
        start=start,
        steps=taken,
        losses=tuple((r.step, r.metrics["loss"]) for r in taken if "loss" in r.metrics),
        evaluations=evaluations,
        evaluated=evaluated,
        recovered_at=tuple(
            event.step for event in events[1:] if event.reason == "Resumed" and event.step
        ),
        generations=_generations(records, start),
        faults=_marks(events, start, FAULTS),
        recoveries=_marks(events, start, {"RecoveryFinished"}),
        checkpoints=_marks(events, start, {"Checkpointed"}),
        held_out_marks=_marks(events, start, {"Evaluated"}),
        events=tuple(events),
        peak_memory=_peaks(steps),
    )


def step_parts(step: StepRecord) -> dict[str, float]:
    """Seconds of a step by part; what the total has beyond its parts is `other`."""
    known = {part: step.seconds.get(part, 0.0) for part in PARTS}
    rest = step.seconds.get("total", 0.0) - sum(known.values())
    return {**known, "other": max(0.0, rest)}


def _evaluations(events: Sequence[EventRecord]) -> tuple[str, tuple[tuple[int, float], ...]]:
    """The held-out loss, or else the first figure that evaluations have, by step."""
    found = [event for event in events if event.reason == "Evaluated" and event.step is not None]
    names = [name for event in found for name in event.figures]
    name = "loss" if "loss" in names or not names else names[0]
    by_step = {event.step: event.figures[name] for event in found if name in event.figures}
    return name, tuple((step, value) for step, value in sorted(by_step.items()) if step is not None)


def _generations(records: Sequence[Record], start: float) -> tuple[GenerationSpan, ...]:
    """From the beginning of each generation to what ended it, or to its last record."""
    begins = [
        (index, record)
        for index, record in enumerate(records)
        if isinstance(record, EventRecord) and record.reason == "GenerationBegun"
    ]
    bounds = [*(index for index, _ in begins), len(records)]
    spans = []
    for (index, begin), (_, stop) in zip(begins, pairwise(bounds), strict=True):
        inside = records[index + 1 : stop]
        ends = [r for r in inside if isinstance(r, EventRecord) and r.reason in _ENDS]
        last = ends[0] if ends else (inside or [begin])[-1]
        stop_time = max(begin.time, last.time)
        ready = [r.time for r in inside if isinstance(r, EventRecord) and r.reason == "Resumed"]
        spans.append(
            GenerationSpan(
                name=str(begin.generation),
                start=begin.time - start,
                ready=min([stop_time, *ready]) - start,
                stop=stop_time - start,
                ranks=int(begin.figures.get("ranks", 0)),
            )
        )
    return tuple(spans)


def _marks(
    events: Sequence[EventRecord], start: float, reasons: frozenset[str] | set[str]
) -> tuple[Mark, ...]:
    return tuple(Mark(e.time - start, e.message) for e in events if e.reason in reasons)


def _peaks(steps: Sequence[StepRecord]) -> tuple[tuple[int, int], ...]:
    peaks: dict[int, int] = {}
    for step in steps:
        for rank, memory in step.memory_bytes.items():
            peaks[rank] = max(memory, peaks.get(rank, 0))
    return tuple(sorted((rank, memory) for rank, memory in peaks.items() if memory > 0))


def finite(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Those whose figure can be drawn."""
    return [(float(step), value) for step, value in points if isfinite(value)]
