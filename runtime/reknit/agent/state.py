"""What an agent knows: its places for processes and where its job stands."""

from dataclasses import dataclass, replace
from typing import Final, Literal

from reknit.protocol.agents import Begin, Exited, FromSlot, Register, SlotReport
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import Conclusion, ErrorReport
from reknit.protocol.ranks import Finished, Phase, StepDone

START_ALLOWANCE_SECONDS: Final = 60.0
"""A new process may import this long before its silence counts."""
RECENT_STEPS: Final = 512
"""Steps of all its ranks together that an agent can tell a new coordinator of, with all figures."""
NEVER: Final = (-1, -1)
"""Below the key of every generation."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What never changes about an agent, and the job's periods in seconds."""

    name: str
    role: Literal["worker", "spare"]
    replica: int
    node: str
    host: str
    num_slots: int
    is_command: bool
    heartbeat_seconds: float
    grace_seconds: float
    """From SIGTERM to SIGKILL of the pod."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for a process, numbered by local rank, and what became of it in a generation."""

    index: int
    generation: Generation | None = None
    rank: int | None = None
    launch: int | None = None
    """The process that lives here, or is being started; None when there is none."""
    pid: int | None = None
    phase: Phase | None = None
    step: int = 0
    start: int | None = None
    """The version before the first step that the process has committed."""
    recent: tuple[StepDone, ...] = ()
    """Its latest steps; of older ones only `start` and `step` are known."""
    heard_at: float = 0.0
    """When the process gave its last sign of life; ahead of now while it may still import."""
    error: ErrorReport | None = None
    """What the rank said about its failure."""
    deadline: float | None = None
    """When the process is killed unless it has ended."""
    finished: Finished | None = None
    exited: Exited | None = None
    """What the coordinator was told about the end of the process."""
    is_killed: bool = False
    """This agent has killed the process: its end is no news."""

    @property
    def is_live(self) -> bool:
        """A process lives here."""
        return self.launch is not None

    def committed(self, done: StepDone, num_kept: int) -> "Slot":
        """This place after one more step of its process."""
        return replace(
            self,
            phase=Phase.STEP,
            step=done.step,
            start=done.step - 1 if self.start is None else self.start,
            recent=(*self.recent, done)[-num_kept:],
        )

    def report(self, now: float) -> SlotReport:
        """What the coordinator is told with every heartbeat."""
        return SlotReport(
            slot=self.index,
            pid=self.pid if self.is_live else None,
            generation=self.generation,
            rank=self.rank,
            phase=self.phase,
            step=self.step,
            silent_seconds=round(max(0.0, now - self.heard_at), 3) if self.is_live else 0.0,
            finished=self.finished is not None,
            left=self.finished is not None and self.finished.left,
            unsaved=self.finished.unsaved if self.finished is not None else None,
            start=self.start,
        )


@dataclass(frozen=True, slots=True)
class AgentState:
    """Everything the agent decides by. Times are seconds of a monotonic clock."""

    identity: Identity
    store: Endpoint
    """The listener on offer for a coming generation's store."""
    slots: tuple[Slot, ...]
    is_connected: bool = False
    is_ready: bool = False
    problem: ErrorReport | None = None
    """Why no process can be started at all."""
    promised: int = 0
    """Highest incarnation obeyed."""
    begin: Begin | None = None
    """The newest generation, until it has ended."""
    is_launched: bool = False
    """The processes of `begin` were started, or reported as impossible."""
    is_draining: bool = False
    """The processes of `begin` were told to leave."""
    ended: Generation | None = None
    """The newest generation that must not run here any more."""
    stopped: Generation | None = None
    """The newest generation reported as gone."""
    next_launch: int = 0
    leave_deadline: float | None = None
    """When the agent must be gone, after SIGTERM."""
    conclusion: Conclusion | None = None
    """How the job, or this agent's part in it, ended."""
    conclude_deadline: float | None = None
    last_tick: float | None = None
    command_code: int | None = None
    """The first exit status other than 0 of a command in the newest generation."""
    unsaved: str | None = None
    """What ranks of the newest generation said is lost because they left without a checkpoint."""
    is_over: bool = False

    @property
    def pids(self) -> dict[int, int]:
        """Process id by launch of the processes that run."""
        return {
            slot.launch: slot.pid
            for slot in self.slots
            if slot.launch is not None and slot.pid is not None
        }

    """The agent was told to exit."""

    @property
    def generation(self) -> Generation | None:
        """The generation whose processes run here, or are about to."""
        return self.begin.generation if self.begin else None

    @property
    def live(self) -> tuple[Slot, ...]:
        """The places with a process."""
        return tuple(slot for slot in self.slots if slot.is_live)

    @property
    def is_leaving(self) -> bool:
        """The agent got SIGTERM."""
        return self.leave_deadline is not None

    def slot_of(self, launch: int) -> Slot | None:
        """The place of a process; None when it is known to be gone."""
        return next((slot for slot in self.slots if slot.launch == launch), None)

    def with_slot(self, changed: Slot) -> "AgentState":
        """This state with one place changed."""
        slots = tuple(changed if slot.index == changed.index else slot for slot in self.slots)
        return replace(self, slots=slots)

    def reports(self, now: float) -> tuple[SlotReport, ...]:
        """All places, as told with every heartbeat."""
        return tuple(slot.report(now) for slot in self.slots)

    def register(self, now: float) -> Register:
        """The first message of a connection."""
        identity = self.identity
        return Register(
            agent=identity.name,
            role=identity.role,
            replica=identity.replica,
            node=identity.node,
            host=identity.host,
            num_slots=identity.num_slots,
            promised=self.promised,
            generation=self.generation,
            world_size=self.begin.world_size if self.begin else None,
            store=self.store,
            slots=self.reports(now),
            recent=tuple(
                FromSlot(rank=slot.rank, message=done)
                for slot in self.slots
                if slot.rank is not None and slot.generation == self.generation
                for done in slot.recent
            ),
        )


def new_state(identity: Identity, store: Endpoint) -> AgentState:
    """An agent without processes."""
    slots = tuple(Slot(index=index) for index in range(identity.num_slots))
    return AgentState(identity=identity, store=store, slots=slots)


def key(generation: Generation | None) -> tuple[int, int]:
    """The ordering of generations, with None before all of them."""
    return generation.key() if generation else NEVER
