"""Between an agent and its rank processes: one JSON message per line on a socket pair."""

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from reknit.protocol.base import Endpoint, Generation, Message
from reknit.protocol.outcome import ErrorReport


class Phase(StrEnum):
    """What a rank is doing. All but STEP may last long without progress."""

    STARTING = "Starting"
    LOADING = "Loading"
    STEP = "Step"
    EVALUATION = "Evaluation"
    CHECKPOINT = "Checkpoint"
    CLOSING = "Closing"


class Assign(Message):
    """Agent to rank: take this place in this generation."""

    kind: Literal["assign"] = "assign"
    generation: Generation
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    group_rank: int
    """Index of the pod among the generation's pods."""
    store: Endpoint
    """The rendezvous store; the rank with `store_fd` set hosts it on that inherited listener."""


class Leave(Message):
    """Agent to rank: stop at the next step boundary, with a checkpoint if one can be written."""

    kind: Literal["leave"] = "leave"
    reason: str


class Release(Message):
    """Agent to rank: every rank has finished; exit."""

    kind: Literal["release"] = "release"


class Beat(Message):
    """Rank to agent, from a thread of its own: the process is scheduled."""

    kind: Literal["beat"] = "beat"
    phase: Phase
    step: int


class StepDone(Message):
    """Rank to agent: a version was committed."""

    kind: Literal["step"] = "step"
    generation: Generation
    step: int
    """The version now held: number of committed steps."""
    total_steps: int | None = None
    samples: int = 0
    """Samples of the global batch."""
    skipped: bool = False
    """The update was left out (FP16 overflow)."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """loss, grad_norm, learning_rate, loss_scale and whatever the user logged."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Split of the step: data, forward, backward, communication, update, checkpoint, total."""
    memory_bytes: int = 0
    """Peak resident memory of the process."""


class Evaluated(Message):
    """Rank 0 to agent: figures of an evaluation on held-out data."""

    kind: Literal["evaluated"] = "evaluated"
    step: int
    metrics: dict[str, float]


class Checkpointed(Message):
    """Rank 0 to agent: a checkpoint is durable, or could not be written."""

    kind: Literal["checkpointed"] = "checkpointed"
    step: int
    location: str
    seconds: float = 0.0
    error: str | None = None


class Resumed(Message):
    """Rank 0 to agent: where training starts in this generation."""

    kind: Literal["resumed"] = "resumed"
    generation: Generation
    step: int
    source: str
    """`beginning`, or the location of the checkpoint."""


class Finished(Message):
    """Rank to agent: nothing is left to do; the last version is durable unless `unsaved`."""

    kind: Literal["finished"] = "finished"
    generation: Generation
    step: int
    left: bool = False
    """True when the rank stopped because it was told to leave."""
    unsaved: str | None = None
    """Why the last version of a rank that left is not durable, and from where training resumes."""


class Failed(Message):
    """Rank to agent: an exception left the user's function; the process exits after this."""

    kind: Literal["failed"] = "failed"
    generation: Generation
    error: ErrorReport


ToRank: TypeAlias = Annotated[Assign | Leave | Release, Field(discriminator="kind")]
FromRank: TypeAlias = Annotated[
    Beat | StepDone | Evaluated | Checkpointed | Resumed | Finished | Failed,
    Field(discriminator="kind"),
]

TO_RANK: TypeAdapter[ToRank] = TypeAdapter(ToRank)
FROM_RANK: TypeAdapter[FromRank] = TypeAdapter(FromRank)
