"""What the coordinator shows: `GET /status` for the operator, `GET /history` for displays."""

from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from reknit.protocol.base import Generation, Message
from reknit.protocol.outcome import Conclusion, ExitClass
from reknit.protocol.ranks import Phase


class MembershipPhase(StrEnum):
    """Where the job's membership stands."""

    WAITING = "Waiting"
    """Agents are missing."""
    RUNNING = "Running"
    RECOVERING = "Recovering"
    """A generation has ended, the next one has not begun."""
    CLOSING = "Closing"
    """Some ranks have finished."""
    CONCLUDED = "Concluded"


class RankStatus(Message):
    """One rank as last heard."""

    rank: int
    agent: str
    node: str
    phase: Phase
    step: int
    pid: int | None = None
    """Process id on its node."""


class Promotion(Message):
    """A spare that fills the place of a worker."""

    agent: str
    replica: int
    """Of the worker."""
    instead_of: str | None = None
    """The agent that was lost, or had to leave, there; None where that is not known any more."""


class Progress(Message):
    """How far training is."""

    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    remaining_seconds: float | None = None


class RecoveryStatus(Message):
    """What faults have cost so far."""

    count: int = 0
    last_seconds: float | None = None
    lost_steps: int = 0
    failures_by_class: dict[ExitClass, int] = Field(default_factory=dict)


class CheckpointStatus(Message):
    """The newest durable checkpoint, and the newest failure to write one."""

    step: int | None = None
    location: str | None = None
    error: str | None = None
    unsaved: str | None = None
    """What is lost because ranks have left without a last checkpoint; None once training resumes
    or a checkpoint is durable."""


class RangeStatus(Message):
    """A range of parameters that servers keep."""

    number: int
    primary: str
    """The server that answers for it."""
    backup: str | None = None
    protected: bool = False
    """The backup could take its place at once."""
    version: int = 0


class CoordinatorStatus(Message):
    """`GET /status`, bearer token required."""

    incarnation: int
    phase: MembershipPhase
    generation: Generation | None = None
    num_agents: int = 0
    """Agents in the places of workers."""
    num_expected_agents: int = 0
    num_spares: int = 0
    """Spares without a place whose processes are warm."""
    promotions: tuple[Promotion, ...] = ()
    """Of the spares that are there, those that fill the places of workers and know it.

    Such a spare tells every later coordinator, so that whoever records it can rely on it.
    """
    missing: tuple[str, ...] = ()
    """Pods that stand in the way of a smaller world, as processes may still run there unheard; the
    operator confirms those that exist no more."""
    ranks: tuple[RankStatus, ...] = ()
    ranges: tuple[RangeStatus, ...] = ()
    """Empty without parameter servers, and before they are there."""
    servers: tuple[str, ...] = ()
    """Pods of the parameter servers that this coordinator counts on."""
    progress: Progress = Progress()
    recovery: RecoveryStatus = RecoveryStatus()
    checkpoint: CheckpointStatus = CheckpointStatus()
    conclusion: Conclusion | None = None


class StepRecord(Message):
    """One committed step, with the means over ranks."""

    kind: Literal["step"] = "step"
    time: float
    """Seconds since the epoch."""
    generation: Generation
    step: int
    total_steps: int | None = None
    skipped: bool = False
    samples: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    memory_bytes: dict[int, int] = Field(default_factory=dict)
    """Peak resident bytes by rank."""


class EventRecord(Message):
    """Something a person wants to see: a generation, a fault, a checkpoint, an evaluation."""

    kind: Literal["event"] = "event"
    time: float
    reason: str
    """CamelCase: GenerationBegun, RankExited, Hung, ConnectionLost, RecoveryFinished, Checkpointed,
    CheckpointFailed, Evaluated, Resumed, Straggler, StragglerGone, WrongNumbers, AgentLost,
    AgentJoined, SparePromoted, ServersReady, ServerChanged, RangeLost, RangesProtected,
    CopyDiffered, Draining, Concluded."""
    message: str
    generation: Generation | None = None
    rank: int | None = None
    step: int | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    detail: str | None = None
    """Long text, e.g. a traceback."""


Record: TypeAlias = Annotated[StepRecord | EventRecord, Field(discriminator="kind")]


class History(Message):
    """`GET /history?after=N`: records N, N+1, ... that are still kept."""

    records: tuple[Record, ...]
    next: int
    """Pass as `after` of the next request."""
