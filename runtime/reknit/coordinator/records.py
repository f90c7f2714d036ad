"""Records for the history: one clear sentence each."""

from reknit.coordinator.events import Write
from reknit.coordinator.recovery import Recovered
from reknit.protocol.base import Generation
from reknit.protocol.status import EventRecord


def write(
    now: float,
    reason: str,
    message: str,
    *,
    generation: Generation | None = None,
    rank: int | None = None,
    step: int | None = None,
    figures: dict[str, float] | None = None,
    detail: str | None = None,
) -> Write:
    """An event of this moment."""
    return Write(
        EventRecord(
            time=now,
            reason=reason,
            message=message,
            generation=generation,
            rank=rank,
            step=step,
            figures=figures or {},
            detail=detail,
        )
    )


def recovered(
    generation: Generation | None, step: int | None, recovery: Recovered, now: float
) -> Write:
    """The record of a finished recovery: seconds of its phases, lost and redone steps, source."""
    return write(
        now,
        "RecoveryFinished",
        f"Training has recovered after {recovery.seconds['total']:.2f} s.",
        generation=generation,
        step=step,
        figures={
            **recovery.seconds,
            "lost_steps": recovery.lost_steps,
            "redone_steps": recovery.redone_steps,
        },
        detail=recovery.source,
    )


def count(number: int, one: str, many: str = "") -> str:
    """`1 rank`, `2 ranks`."""
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"


def sequence(numbers: list[int], noun: str) -> str:
    """`rank 3`, `ranks 0, 1 and 3`."""
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    head = ", ".join(str(number) for number in numbers[:-1])
    return f"{noun}s {head} and {numbers[-1]}"
