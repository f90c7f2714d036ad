"""Between an agent and its rank processes: one JSON message per line on a socket pair."""

from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from reknit.protocol.base import Endpoint, Generation, Message
from reknit.protocol.outcome import ErrorReport
from reknit.protocol.servers import Leases, Serving, Views

MEMORY: Final = "memory"
"""The source of a state that surviving ranks held."""
BEGINNING: Final = "beginning"
"""The source of a state that nobody held: training starts."""


class Phase(StrEnum):
    """What a rank is doing. All but STEP may last long without progress."""

    STARTING = "Starting"
    LOADING = "Loading"
    STEP = "Step"
    FUNCTION = "Function"
    """The user's code between two steps."""
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
    """The rendezvous store. Rank 0 hosts it on the listener that comes along with this message."""
    hosts: tuple[str, ...] = ()
    """Address of the pod of each rank."""
    nodes: tuple[str, ...] = ()
    """Node of each rank's pod; a copy of a shard is kept on another node than the original."""


class Abort(Message):
    """Agent to rank: leave this generation at once, keep the state, and wait for the next place.

    Every call that waits for other ranks of the generation is broken off.
    """

    kind: Literal["abort"] = "abort"
    generation: Generation
    reason: str


class Leave(Message):
    """Agent to rank: stop at the next step boundary, with a checkpoint if one can be written."""

    kind: Literal["leave"] = "leave"
    reason: str
    stay: bool = False
    """The process stays: it leaves the generation with its state and says `Left`, as after `Abort`,
    but all ranks do so at the same boundary, and nothing is redone. Where ranks were told
    differently before they came to it, they write a checkpoint. It counts for the generation of the
    latest `Assign`; to a process that has left that one, it says nothing."""


class Release(Message):
    """Agent to rank: every rank has finished; exit."""

    kind: Literal["release"] = "release"


class Parked(Message):
    """Rank to agent: warm, and waiting for a place; said once, by a process that has none yet."""

    kind: Literal["parked"] = "parked"


class Left(Message):
    """Rank to agent, after `Abort`, or at a step boundary when some rank got `Leave` with `stay`.

    Nothing of this process acts in the generation any more; it waits with its state.
    """

    kind: Literal["left"] = "left"
    generation: Generation
    step: int
    """The version that it holds."""


class PeerLost(Message):
    """Rank to agent: a connection to another rank broke, and no `Abort` has said why.

    The rank waits for what its agent says.
    """

    kind: Literal["peer_lost"] = "peer_lost"
    generation: Generation


class Beat(Message):
    """Rank to agent, from a thread of its own: the process is scheduled."""

    kind: Literal["beat"] = "beat"
    phase: Phase
    step: int
    place: int = 0
    """How far the rank has come within what all ranks do alike: grows with everything it begins.

    Counted anew in each generation. Of ranks that hold the same version and wait for each other,
    the one with the lowest number is waited for; while one of them changes, none has hung.
    """


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


class WrongNumbers(Message):
    """Rank 0 to agent: a step had wrong numbers, and was committed without them."""

    kind: Literal["wrong_numbers"] = "wrong_numbers"
    step: int
    """Steps committed before it."""
    blame: str
    """Passing or Data."""
    sentence: str
    ranks: tuple[int, ...] = ()
    """The ranks that computed them, if it was theirs."""


class Checkpointed(Message):
    """Rank 0 to agent: a checkpoint is durable, or could not be written."""

    kind: Literal["checkpointed"] = "checkpointed"
    step: int
    location: str
    seconds: float = 0.0
    error: str | None = None


class CopyDiffered(Message):
    """Rank to agent: the copy that it kept of another rank's shard was not what it should be.

    It has been made anew from the original, which may as well be the one that is wrong.
    """

    kind: Literal["copy_differed"] = "copy_differed"
    step: int
    ward: int
    """The rank whose shard it is."""


class Resumed(Message):
    """Rank 0 to agent: where training starts, or goes on, in this generation."""

    kind: Literal["resumed"] = "resumed"
    generation: Generation
    step: int
    source: str
    """`beginning`, `memory`, or the location of the checkpoint."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """What this took on rank 0: join, agree, transfer."""
    anew: tuple[int, ...] = ()
    """Ranks whose memory of what compression has left out was lost, and begins empty."""
    damaged: tuple[str, ...] = ()
    """Newer checkpoints that had been complete and cannot be used any more, with the reasons."""


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


ToRank: TypeAlias = Annotated[
    Assign | Abort | Leave | Release | Views | Leases, Field(discriminator="kind")
]
FromRank: TypeAlias = Annotated[
    Parked
    | Left
    | PeerLost
    | Beat
    | StepDone
    | Evaluated
    | WrongNumbers
    | Checkpointed
    | CopyDiffered
    | Resumed
    | Finished
    | Failed
    | Serving,
    Field(discriminator="kind"),
]

TO_RANK: TypeAdapter[ToRank] = TypeAdapter(ToRank)
FROM_RANK: TypeAdapter[FromRank] = TypeAdapter(FromRank)
