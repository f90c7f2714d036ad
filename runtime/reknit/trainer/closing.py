"""The end of training on a rank: the last version made durable, the weights in one file."""

from pathlib import Path
from typing import Final

from reknit.checkpoint.consolidate import consolidate
from reknit.checkpoint.reader import newest, open_checkpoint
from reknit.protocol.outcome import MAX_EXCEPTION_CHARACTERS, sendable
from reknit.protocol.ranks import Checkpointed, Phase
from reknit.rank.board import Moment
from reknit.strategies.base import tied_names
from reknit.trainer.checkpointing import CheckpointCycle
from reknit.trainer.errors import CheckpointError
from reknit.trainer.training import Training

MODEL_FILE: Final = "model.safetensors"
"""The consolidated weights of a finished job, beside its checkpoints."""


def finish(training: Training) -> None:
    """Makes the last version durable and leaves its weights in one file; all ranks together.

    Raises:
        CheckpointError: the final checkpoint could not be written.
    """
    training.link.enter(Phase.CLOSING, training.version)
    training.moments.enter(Moment.CLOSING, training.version)
    if training.cycle is None:
        return
    error = _write_last(training, training.cycle)
    if error is not None:
        raise CheckpointError(f"the final checkpoint could not be written: {error}")
    if training.group.rank == 0:
        _consolidate(training)
    training.cycle.close()


def save_before_leaving(training: Training) -> str | None:
    """Makes the present version durable; a sentence about what is lost if that fails."""
    cycle = training.cycle
    if cycle is None:
        return None
    error = _write_last(training, cycle)
    cycle.close()
    if error is None:
        return None
    start = "the beginning" if not cycle.durable_version else f"step {cycle.durable_version}"
    return sendable(
        f"the last checkpoint (step {training.version}) could not be written, training will "
        f"resume from {start}: {error}"[:MAX_EXCEPTION_CHARACTERS],
        MAX_EXCEPTION_CHARACTERS,
    )


def tell_checkpoints(training: Training) -> str | None:
    """Reports checkpoints that are complete or have failed; the newest one's error."""
    error = None
    for report in [] if training.cycle is None else training.cycle.reports():
        error = report.error
        if training.group.rank == 0:
            training.link.tell(
                Checkpointed(
                    step=report.version,
                    location=report.location,
                    seconds=report.seconds,
                    error=report.error,
                )
            )
    return error


def _write_last(training: Training, cycle: CheckpointCycle) -> str | None:
    """Makes the present version durable, all ranks together; the reason if that fails."""
    assert training.stepper is not None
    training.link.enter(Phase.CHECKPOINT, training.version)
    training.moments.enter(Moment.CHECKPOINT, training.version)
    cycle.flush()
    if cycle.durable_version != training.version:
        cycle.begin(training.version, training.stepper.describe(training.state, durable=True))
        cycle.flush()
    reason = tell_checkpoints(training)
    return None if cycle.durable_version == training.version else reason or "unknown reason"


def _consolidate(training: Training) -> None:
    checkpoint = training.settings.checkpoint
    assert checkpoint is not None
    assert training.stepper is not None
    info = newest(checkpoint.path, verify_contents=False)
    if info is None or info.version != training.version:
        raise CheckpointError("the final checkpoint has disappeared")
    aliases = tied_names(training.stepper.strategy.model)
    try:
        with open_checkpoint(info) as source:
            consolidate(source, Path(checkpoint.path) / MODEL_FILE, aliases=aliases)
    except OSError as error:
        raise CheckpointError(f"{MODEL_FILE} could not be written: {error}") from error
