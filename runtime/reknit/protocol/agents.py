"""Between agents and the coordinator: JSON messages on one WebSocket per agent (`GET /agent`)."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from reknit.protocol.base import PROTOCOL_VERSION, Endpoint, Generation, Message
from reknit.protocol.outcome import Conclusion, ProcessExit
from reknit.protocol.ranks import FromRank, Phase


class SlotReport(Message):
    """One place for a process on an agent, numbered by local rank."""

    slot: int
    pid: int | None = None
    """None while no process runs."""
    generation: Generation | None = None
    """The generation the process belongs to; None once it was told to leave it."""
    rank: int | None = None
    phase: Phase | None = None
    step: int = 0
    place: int = 0
    """As in `Beat`."""
    silent_seconds: float = 0.0
    """Since the process' own heartbeat thread was last heard."""
    finished: bool = False
    """The rank has said `Finished`; a coordinator that came later did not hear it."""
    left: bool = False
    """It finished because it was told to leave."""
    unsaved: str | None = None
    """As in `Finished`."""
    start: int | None = None
    """The version before the first step that the process has committed; None before that."""
    peer_lost: bool = False
    """It has said `PeerLost`."""


class Register(Message):
    """Agent to coordinator, first message of a connection."""

    kind: Literal["register"] = "register"
    version: int = PROTOCOL_VERSION
    agent: str
    """Pod name."""
    role: Literal["worker", "spare"] = "worker"
    replica: int
    """Index within its role."""
    place: int | None = None
    """Replica of the worker whose place a spare was given last; None: it has had none."""
    node: str
    host: str
    num_slots: int
    promised: int
    """Highest incarnation this agent has obeyed; a coordinator of a lower one is refused."""
    generation: Generation | None = None
    """The newest generation in which a process here may still act."""
    latest: Generation | None = None
    """The newest generation that this agent was given ranks of, even if it is over."""
    world_size: int | None = None
    """Ranks of `latest`; None stands for those of the full job."""
    store: Endpoint
    """A listener that the next generation's store may use when rank 0 lands here."""
    slots: tuple[SlotReport, ...]
    num_warm: int = 0
    """Parked processes that are warm."""
    recent: "tuple[FromSlot, ...]" = ()
    """The latest `StepDone` of each rank of `generation`: a coordinator may not have heard them."""


class Heartbeat(Message):
    """Agent to coordinator, every `heartbeat_seconds`."""

    kind: Literal["heartbeat"] = "heartbeat"
    slots: tuple[SlotReport, ...]
    store: Endpoint
    num_warm: int = 0
    """Parked processes that are warm."""
    place: int | None = None
    """As in `Register`."""


class Exited(Message):
    """Agent to coordinator: a process of a generation has ended."""

    kind: Literal["exited"] = "exited"
    generation: Generation
    slot: int
    rank: int
    exit: ProcessExit


class Stopped(Message):
    """Agent to coordinator: no process here acts in this generation or an older one any more.

    Processes that have left it may still live and hold its state.
    """

    kind: Literal["stopped"] = "stopped"
    generation: Generation
    store: Endpoint
    moved: bool = False
    """All ranks here have left the generation at a step boundary, with their state, and nobody had
    ended it: those of the other agents do the same."""


class Leaving(Message):
    """Agent to coordinator: this pod got SIGTERM and will be gone within the grace period.

    Its ranks go on until `Drain` says how they leave; if nobody says so in time, they write a
    checkpoint.
    """

    kind: Literal["leaving"] = "leaving"
    grace_seconds: float


class FromSlot(Message):
    """Agent to coordinator: what a rank said, passed on."""

    kind: Literal["rank"] = "rank"
    rank: int
    message: FromRank
    waited: float = 0.0
    """Seconds that a step has waited at the agent for the next message."""


class Place(Message):
    """One rank's place in a generation."""

    rank: int
    agent: str
    slot: int
    """Local rank."""
    replica: int = 0
    """Of the worker whose place this is; a spare that is named takes it."""
    host: str = ""
    """Address of the agent's pod."""
    node: str = ""
    """Where that pod runs."""


class Welcome(Message):
    """Coordinator to agent, first answer to `Register`: the agent promises this incarnation.

    An agent that has promised a higher one hangs up and tries again.
    """

    kind: Literal["welcome"] = "welcome"
    incarnation: int


class Begin(Message):
    """Coordinator to agents: a new generation.

    Processes that have left an older one take the places of their slots; an empty place goes to
    the parked process, or to a new one.
    """

    kind: Literal["begin"] = "begin"
    generation: Generation
    world_size: int
    store: Endpoint
    places: tuple[Place, ...]


class End(Message):
    """Coordinator to agents: leave this generation and all older ones."""

    kind: Literal["end"] = "end"
    generation: Generation
    reason: str
    keep: bool = False
    """Processes that are well stay alive, leave, and take their places in the next generation."""
    failed: tuple[int, ...] = ()
    """Ranks on this agent that are at fault: their processes are killed in any case."""


class Drain(Message):
    """Coordinator to agents: ranks stop at the next step boundary, after a checkpoint.

    Said again when another pod must leave; then `stay` may have become False, never True.
    """

    kind: Literal["drain"] = "drain"
    generation: Generation
    reason: str
    stay: bool = False
    """No checkpoint: processes keep their state, as in `Leave`, and take part in the next
    generation; the agent answers `Stopped` when its ranks have left."""
    leaving: tuple[str, ...] = ()
    """The agents whose pods must go. With `stay` the state survives without them."""


class Conclude(Message):
    """Coordinator to agents: the job is over; release or end the ranks, report, exit."""

    kind: Literal["conclude"] = "conclude"
    incarnation: int
    conclusion: Conclusion


class Refuse(Message):
    """Coordinator to agent: this connection is not accepted (wrong version, stale place)."""

    kind: Literal["refuse"] = "refuse"
    reason: str
    final: bool
    """The agent must exit instead of trying again."""


FromAgent: TypeAlias = Annotated[
    Register | Heartbeat | Exited | Stopped | Leaving | FromSlot, Field(discriminator="kind")
]
ToAgent: TypeAlias = Annotated[
    Welcome | Begin | End | Drain | Conclude | Refuse, Field(discriminator="kind")
]

FROM_AGENT: TypeAdapter[FromAgent] = TypeAdapter(FromAgent)
TO_AGENT: TypeAdapter[ToAgent] = TypeAdapter(ToAgent)
