"""The state of a job as its records tell it: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from reknit.protocol.status import CoordinatorStatus, EventRecord, RankStatus, Record, StepRecord

RATE_STEPS: Final = 20
"""Steps over which the speed is averaged."""
_TOLD: Final = {
    "RankExited": "Recovering",
    "AgentLost": "Recovering",
    "Hung": "Recovering",
    "ConnectionLost": "Recovering",
    "GenerationEnded": "Recovering",
    "Resumed": "Running",
    "Draining": "Closing",
    "Concluded": "Concluded",
}
KEPT_EVENTS: Final = 8
KEPT_LOSSES: Final = 400


@dataclass(frozen=True, slots=True)
class View:
    """What a display needs to know."""

    name: str
    started: float | None = None
    """Time of the first record, seconds since the epoch."""
    now: float | None = None
    """Time of the newest record."""
    step: int = 0
    committed: int = 0
    """Highest step so far; the current one is lower while lost steps are redone."""
    total_steps: int | None = None
    samples: int = 0
    """Samples of the last global batch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)
    """Figures of the newest evaluation."""
    held_out_step: int | None = None
    losses: tuple[float, ...] = ()
    marks: tuple[tuple[float, int], ...] = ()
    """(time, step) of the latest steps of the current generation."""
    generation: str | None = None
    events: tuple[EventRecord, ...] = ()
    faults: int = 0
    """Ranks and agents that were lost."""
    recoveries: int = 0
    recovery_seconds: float | None = None
    """Duration of the latest recovery."""
    redone: int = 0
    """Committed steps that were taken again."""
    checkpoint_step: int | None = None
    memory_bytes: Mapping[int, int] = field(default_factory=dict)
    ranks: tuple[RankStatus, ...] = ()
    phase: str | None = None
    """Where the membership stands; None while no coordinator answers."""

    told: str = "Starting"
    """Where the job stands as far as records tell."""

    @property
    def state(self) -> str:
        """Where the job stands: in the coordinator's word, or else as far as records tell."""
        return self.phase or self.told

    @property
    def steps_per_second(self) -> float | None:
        """Over the latest steps of the current generation."""
        if len(self.marks) < 2:
            return None
        (start, first), (end, last) = self.marks[0], self.marks[-1]
        return (last - first) / (end - start) if end > start else None

    @property
    def samples_per_second(self) -> float | None:
        """Samples of the whole job."""
        rate = self.steps_per_second
        return rate * self.samples if rate and self.samples else None

    @property
    def remaining_seconds(self) -> float | None:
        """Time until the last step at the present speed."""
        rate = self.steps_per_second
        if not rate or self.total_steps is None:
            return None
        return max(0, self.total_steps - self.step) / rate

    @property
    def elapsed(self) -> float:
        """Seconds between the first record and the newest."""
        return 0.0 if self.started is None or self.now is None else self.now - self.started


def fold(view: View, records: Iterable[Record]) -> View:
    """The view after some more records."""
    for record in records:
        started = record.time if view.started is None else view.started
        view = replace(view, started=started, now=max(record.time, view.now or record.time))
        view = _step(view, record) if isinstance(record, StepRecord) else _event(view, record)
    return view


def with_status(view: View, status: CoordinatorStatus | None) -> View:
    """The view with what the coordinator says now; without one, ranks stay as last heard."""
    if status is None:
        return replace(view, phase=None)
    return replace(view, phase=str(status.phase), ranks=status.ranks)


def _step(view: View, record: StepRecord) -> View:
    generation = str(record.generation)
    marks = view.marks if generation == view.generation else ()
    loss = record.metrics.get("loss")
    return replace(
        view,
        told="Running",
        step=record.step,
        committed=max(view.committed, record.step),
        total_steps=view.total_steps if record.total_steps is None else record.total_steps,
        samples=record.samples,
        metrics=record.metrics,
        losses=view.losses if loss is None else (*view.losses, loss)[-KEPT_LOSSES:],
        marks=(*marks, (record.time, record.step))[-RATE_STEPS:],
        generation=generation,
        memory_bytes=record.memory_bytes or view.memory_bytes,
    )


def _event(view: View, event: EventRecord) -> View:
    view = replace(
        view,
        events=(*view.events, event)[-KEPT_EVENTS:],
        told=_TOLD.get(event.reason, view.told),
    )
    match event.reason:
        case "GenerationBegun":
            return replace(view, generation=str(event.generation), marks=())
        case "RankExited" | "Hung" | "ConnectionLost" | "AgentLost":
            return replace(view, faults=view.faults + 1)
        case "RecoveryFinished":
            seconds = event.figures.get("total")
            return replace(view, recoveries=view.recoveries + 1, recovery_seconds=seconds)
        case "Resumed" if event.step is not None:
            redone = view.redone + max(0, view.committed - event.step)
            return replace(view, step=event.step, committed=event.step, redone=redone, marks=())
        case "Evaluated":
            return replace(view, held_out=event.figures, held_out_step=event.step)
        case "Checkpointed":
            return replace(view, checkpoint_step=event.step)
        case _:
            return view
