"""What ranks tell each other when a generation begins."""

from typing import Any

from reknit.protocol.base import Json, Message
from reknit.trainer.checkpointing import CheckpointCycle
from reknit.trainer.gate import Vote
from reknit.trainer.step import Stepper, StepResult


class Standing(Message):
    """How far one rank is."""

    version: int | None = None
    """The version that it holds; None for a rank that holds nothing."""
    prepared: bool = False
    """It can complete the next step once it knows the outcome of its gate."""
    gate: int | None = None
    """The version that the newest gate leads to whose outcome it knows."""
    votes: dict[str, float] | None = None
    """That outcome."""
    durable: int | None = None
    """The version of the newest complete checkpoint that it knows of."""
    unsaved: bool = False
    """A checkpoint was due or being written."""
    saved: int | None = None
    """The version of the newest complete checkpoint on disk, as rank 0 finds it."""
    elapsed: float = 0.0
    """Seconds since the last checkpoint was begun."""


def standing(stepper: Stepper | None, cycle: CheckpointCycle | None, saved: int | None) -> Standing:
    """What this rank has to tell; without a stepper it holds nothing."""
    if stepper is None:
        return Standing(saved=saved)
    attempt, result = stepper.attempt, stepper.results.get(stepper.version)
    if attempt is not None and attempt.votes is not None:
        gate, votes = stepper.version + 1, attempt.votes
    elif result is not None:
        gate, votes = stepper.version, result.votes
    else:
        gate, votes = None, None
    return Standing(
        version=stepper.version,
        prepared=attempt is not None and attempt.prepared,
        gate=gate,
        votes=None if votes is None else votes.figures(),
        saved=saved,
        durable=None if cycle is None else cycle.durable_version,
        unsaved=cycle is not None and cycle.is_pending,
        elapsed=0.0 if cycle is None else cycle.elapsed,
    )


def encode_result(result: StepResult) -> dict[str, Json]:
    """A step's outcome as JSON."""
    return {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "loss_scale": result.loss_scale,
        "skipped": result.skipped,
        "votes": dict(result.votes.figures()),
    }


def decode_result(encoded: dict[str, Any]) -> StepResult:
    """What `encode_result` gave."""
    return StepResult(**{**encoded, "votes": Vote(**encoded["votes"])})
