"""The display where there is no terminal: plain lines at a rate that people can read."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from reknit.protocol.status import EventRecord, Record, StepRecord
from reknit_operator.cli.display.view import View, fold
from reknit_operator.cli.words import figure, span

PERIOD: Final = timedelta(seconds=5)
"""Least time between two lines about steps."""


class Lines:
    """Turns records into lines: each event at once, steps now and then, the first and last always.

    Holds the view; feed it the records in order.
    """

    def __init__(self, name: str, period: timedelta = PERIOD) -> None:
        self.view = View(name)
        self._period = period.total_seconds()
        self._told: float | None = None

    def recall(self, records: Iterable[Record]) -> None:
        """Takes records that are worth no line."""
        self.view = fold(self.view, records)

    def feed(self, record: Record) -> list[str]:
        """The lines that one more record is worth."""
        self.view = fold(self.view, [record])
        if isinstance(record, EventRecord):
            return event_lines(self.view, record)
        if not self._is_due(record):
            return []
        self._told = record.time
        return [step_line(self.view)]

    def _is_due(self, record: StepRecord) -> bool:
        is_last = record.step == self.view.total_steps
        return self._told is None or is_last or record.time - self._told >= self._period


def step_line(view: View) -> str:
    """Where training stands, in one line."""
    total = "" if view.total_steps is None else f"/{view.total_steps}"
    parts = [f"step {view.step}{total}"]
    if "loss" in view.metrics:
        parts.append(f"loss {figure(view.metrics['loss'])}")
    if view.samples_per_second is not None:
        parts.append(f"{figure(view.samples_per_second)} samples/s")
    if view.remaining_seconds:
        parts.append(f"{span(view.remaining_seconds)} left")
    return "  ".join(parts)


def event_lines(view: View, event: EventRecord) -> list[str]:
    """An event: time since the beginning and its sentence, and its figures if it has no words."""
    at = event.time - (event.time if view.started is None else view.started)
    return [f"[{span(at)}] {event.reason}: {event.message}"]
