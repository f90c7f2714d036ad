"""What a run came to: pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from reknit.protocol.outcome import CUT
from reknit.protocol.status import EventRecord, Record
from reknit_operator.api.types import ConditionType, DistributedTrainingJob, JobStatus
from reknit_operator.cli.display.view import View
from reknit_operator.cli.words import figure, plural, span
from reknit_operator.constants import Reason


class ExitCode(IntEnum):
    """Exit statuses of `reknit run`."""

    SUCCEEDED = 0
    FAILED = 1
    CONFIGURATION = 2
    STOPPED = 130
    """As a shell has it for Ctrl-C."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    code: ExitCode
    headline: str
    traceback: str | None = None
    """The user's own; the last thing on the screen."""
    warning: str | None = None
    """What went wrong beside the job."""


def outcome(job: DistributedTrainingJob, records: Sequence[Record]) -> Outcome:
    """The end of a job by its conditions; one without a final condition was stopped.

    Args:
        job: with its last status.
        records: all of its history.
    """
    status = job.status
    for condition in status.conditions:
        if condition.status != "True":
            continue
        if condition.type == ConditionType.SUCCEEDED:
            return Outcome(ExitCode.SUCCEEDED, f"{job.metadata.name} has succeeded")
        if condition.type == ConditionType.FAILED:
            return _failure(job.metadata.name, condition.reason, status, records)
    headline = f"{job.metadata.name} was stopped"
    lost = [c.message for c in status.conditions if c.type == ConditionType.SUSPENDED and c.message]
    return Outcome(ExitCode.STOPPED, ", but ".join([headline, *lost]))


def _failure(name: str, reason: str, status: JobStatus, records: Sequence[Record]) -> Outcome:
    sentence = status.message or reason
    if reason == Reason.CONFIGURATION:
        return Outcome(ExitCode.CONFIGURATION, sentence)
    traceback = status.traceback and _whole(status.traceback, records)
    return Outcome(ExitCode.FAILED, f"{name} has failed: {sentence}", traceback)


def _whole(traceback: str, records: Sequence[Record]) -> str:
    """A traceback as the history has it: the last words of a pod, and so the status, may be cut."""
    end = traceback.removeprefix(CUT)
    details = (record.detail for record in reversed(records) if isinstance(record, EventRecord))
    return next((detail for detail in details if detail and detail.endswith(end)), traceback)


def facts(
    view: View, *, seconds: float, run_dir: Path, report: Path | None, model: Path | None
) -> Iterator[tuple[str, str]]:
    """Label and text of each line of the summary.

    Args:
        view: after the last record.
        seconds: from start to end on the clock.
        run_dir: the folder of the run.
        report: where it lies, None when there is none.
        model: the weights, None when there are none.
    """
    total = "" if view.total_steps is None else f" of {view.total_steps:,}"
    yield "steps", f"{view.step:,}{total} in {span(seconds)}"
    for name, value in view.held_out.items():
        yield f"held-out {name}", f"{figure(value)} at step {view.held_out_step:,}"
    if "loss" in view.metrics:
        yield "training loss", figure(view.metrics["loss"])
    if view.recoveries or view.redone:
        text = f"{view.recoveries} from {plural(view.faults, 'fault')}"
        if view.recovery_seconds is not None:
            text += f", the last in {span(view.recovery_seconds)}"
        yield "recoveries", text
        yield "steps redone", f"{view.redone:,}"
    if view.checkpoint_step is not None:
        yield "checkpoint", f"step {view.checkpoint_step:,} in {run_dir / 'checkpoints'}"
    if model is not None:
        yield "model", str(model)
    if report is not None:
        yield "report", str(report)
    yield "logs", str(run_dir / "logs")
