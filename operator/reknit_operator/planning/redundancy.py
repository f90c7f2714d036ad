"""How often each part of the state is held in memory, and where it comes from when it is lost."""

from datetime import timedelta

from reknit.layout import Sharding
from reknit.protocol.base import Message
from reknit.protocol.settings import CheckpointSettings


class Redundancy(Message):
    """What survives the loss of a rank."""

    parameter_copies: int
    """Ranks that hold each parameter."""
    optimizer_copies: int
    """Ranks that hold each element of the optimizer's state."""
    source: str
    """Where a restarted rank's state comes from."""


def redundancy(
    sharding: Sharding, num_data_ranks: int, checkpoint: CheckpointSettings | None
) -> Redundancy:
    """Ranks are restarted from the newest checkpoint, whatever the survivors still hold."""
    stage = sharding.zero_stage
    return Redundancy(
        parameter_copies=num_data_ranks if stage < 3 else 1,
        optimizer_copies=num_data_ranks if stage < 1 else 1,
        source=_source(checkpoint),
    )


def _source(checkpoint: CheckpointSettings | None) -> str:
    if checkpoint is None:
        return "none: training starts again, as no checkpoint.volume is given"
    bounds = []
    if checkpoint.every_steps is not None:
        bounds.append(f"{checkpoint.every_steps} steps")
    if checkpoint.every_seconds is not None:
        bounds.append(_words(timedelta(seconds=checkpoint.every_seconds)))
    return f"newest checkpoint, at most {' or '.join(bounds)} old"


def _words(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
