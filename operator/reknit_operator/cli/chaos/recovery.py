"""When a job has come over a deed, and what all deeds have cost: pure."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reknit.protocol.base import Generation
from reknit.protocol.status import Record, StepRecord
from reknit_operator.cli.chaos.decide import Action
from reknit_operator.cli.display.view import View, fold
from reknit_operator.cli.words import span


def generation_of(records: Sequence[Record]) -> Generation | None:
    """The newest generation that is told of."""
    generations = [record.generation for record in records if record.generation is not None]
    return max(generations, key=Generation.key, default=None)


def stepped_at(
    records: Sequence[Record], since: float, generation: Generation | None, calm_since: float | None
) -> float | None:
    """When the job made a step again that it had not made before; None while it has not.

    Args:
        records: the history.
        since: when the deed was done, seconds since the epoch.
        generation: the newest one then; steps of a newer one count in any case.
        calm_since: from when on steps of the same generation count, as the deed was over; None for
            one that the generation cannot outlive, or that is not over.
    """
    made = 0
    for record in records:
        if not isinstance(record, StepRecord):
            continue
        newer = generation is not None and record.generation.key() > generation.key()
        calm = calm_since is not None and record.time > calm_since
        if record.time > since and (newer or calm):
            if record.step > made:
                return record.time
        else:
            made = max(made, record.step)
    return None


@dataclass(frozen=True, slots=True)
class Overcome:
    """A deed that was done, and how long the job was without a new step."""

    action: Action
    seconds: float | None
    """None if the job made no further step."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What all deeds together have cost."""

    lost_steps: int
    """Committed steps that were made again."""
    effective_ratio: float | None
    """Share of the time that went into steps that were kept; None without any step."""
    seconds: float


def cost(before: Sequence[Record], during: Sequence[Record]) -> Cost:
    """What happened to the job since the records `before`.

    The time runs from the last of these to the last step.
    """
    start = fold(View(""), before)
    end = fold(start, during)
    steps = [record for record in during if isinstance(record, StepRecord)]
    lost = end.redone - start.redone
    if not steps:
        return Cost(lost, None, 0.0)
    began = steps[0].time if start.now is None else start.now
    seconds = steps[-1].time - began
    committed, productive = start.committed, 0.0
    for step in steps:
        if step.step > committed:
            productive += step.seconds.get("total", 0.0)
            committed = step.step
    ratio = min(1.0, productive / seconds) if seconds > 0 else None
    return Cost(lost, ratio, max(0.0, seconds))


def rows(deeds: Sequence[Overcome]) -> Iterator[tuple[str, str, str, str]]:
    """Of each kind of deed, and of all: its name, how many, median and worst time."""
    kinds = [action for action in Action if any(deed.action is action for deed in deeds)]
    for action in kinds:
        yield _row(action, [deed for deed in deeds if deed.action is action])
    if len(kinds) != 1:
        yield _row("all", deeds)


def _row(name: str, deeds: Sequence[Overcome]) -> tuple[str, str, str, str]:
    seconds = [deed.seconds for deed in deeds if deed.seconds is not None]
    if not seconds:
        return name, str(len(deeds)), "-", "-"
    return name, str(len(deeds)), span(statistics.median(seconds)), span(max(seconds))
