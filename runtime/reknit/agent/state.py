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
    dead_after_seconds: float
    """Silence after which a process without a place is given up."""
    grace_seconds: float
    """From SIGTERM to SIGKILL of the pod."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for a process, numbered by local rank, and what became of it in a generation.

    A process may outlive its generation. Told to abort, it acts on until it says `Left`; then it
    waits, without a rank, for its place in the next generation.
    """

    index: int
    generation: Generation | None = None
    rank: int | None = None
    launch: int | None = None
    """The process that lives here, or is being started; None when there is none."""
    pid: int | None = None
    phase: Phase | None = None
    step: int = 0
    place: int = 0
    """As in `Beat`."""
    start: int | None = None
    """The version before the first step that the process has committed in this generation."""
    recent: tuple[StepDone, ...] = ()
    """Its latest steps; of older ones only `start` and `step` are known."""
    heard_at: float = 0.0
    """When the process gave its last sign of life; ahead of now while it may still import."""
    error: ErrorReport | None = None
    """What the rank said about its failure."""
    deadline: float | None = None
    """When the process is killed unless it has ended, or left."""
    finished: Finished | None = None
    exited: Exited | None = None
    """What the coordinator was told about the end of the process."""
    peer_lost: bool = False
    """The rank has said that a connection to another one broke."""
    is_aborted: bool = False
    """The process was told to leave its generation, and has not said that it has."""
    left: Generation | None = None
    """The generation that the process has left; it waits for its next place."""
    is_killed: bool = False
    """This agent has killed the process: its end is no news."""

    @property
    def is_live(self) -> bool:
        """A process lives here."""
        return self.launch is not None

    @property
    def is_waiting(self) -> bool:
        """A process lives here that has no place."""
        return self.launch is not None and self.left is not None

    @property
    def is_busy(self) -> bool:
        """A process lives here that cannot be given a place, or not yet."""
        return self.is_live and (not self.is_waiting or self.is_killed or self.error is not None)

    def without_place(self) -> "Slot":
        """Nothing but the process that lives here."""
        if not self.is_live:
            return Slot(index=self.index)
        return Slot(
            index=self.index,
            launch=self.launch,
            pid=self.pid,
            step=self.step,
            heard_at=self.heard_at,
            error=self.error,
            deadline=self.deadline if self.error is not None else None,
            finished=self.finished if self.is_waiting else None,
            left=self.left,
            is_killed=self.is_killed,
        )

    def committed(self, done: StepDone, num_kept: int) -> "Slot":
        """This place after one more step of its process."""
        return replace(
            self,
            phase=Phase.STEP,
            step=done.step,
            start=done.step - 1 if self.start is None else self.start,
            recent=(*self.recent, done)[-num_kept:],
        )

    def report(self, generation: Generation | None, now: float) -> SlotReport:
        """What the coordinator is told with every heartbeat while `generation` runs here."""
        belongs = self.generation == generation and not self.is_aborted
        return SlotReport(
            slot=self.index,
            pid=self.pid if self.is_live else None,
            generation=self.generation if belongs else None,
            rank=self.rank if belongs else None,
            phase=self.phase,
            step=self.step,
            place=self.place,
            silent_seconds=round(max(0.0, now - self.heard_at), 3) if self.is_live else 0.0,
            finished=self.finished is not None,
            left=self.finished is not None and self.finished.left,
            unsaved=self.finished.unsaved if self.finished is not None else None,
            start=self.start,
            peer_lost=self.peer_lost,
        )


@dataclass(frozen=True, slots=True)
class ParkedProcess:
    """A process without a place, kept for the next one that falls empty."""

    launch: int
    heard_at: float
    """As in `Slot`."""
    pid: int | None = None
    is_warm: bool = False
    """It has said `Parked`."""
    is_killed: bool = False


@dataclass(frozen=True, slots=True)
class AgentState:
    """Everything the agent decides by. Times are seconds of a monotonic clock."""

    identity: Identity
    store: Endpoint
    """The listener on offer for a coming generation's store."""
    slots: tuple[Slot, ...]
    parked: tuple[ParkedProcess, ...] = ()
    """One in the pod of a worker; in a spare's, one for each of its slots."""
    place: int | None = None
    """Replica of the worker whose place this spare was given last."""
    parking_failures: int = 0
    """Parked processes that have ended before they were warm, since the last one that was."""
    is_connected: bool = False
    is_ready: bool = False
    problem: ErrorReport | None = None
    """Why no process can be started at all."""
    promised: int = 0
    """Highest incarnation obeyed."""
    begin: Begin | None = None
    """The newest generation, until it has ended."""
    latest: Generation | None = None
    """The same, also after its end."""
    latest_world_size: int | None = None
    """Ranks of `latest`."""
    is_launched: bool = False
    """The places of `begin` were given out, or reported as impossible."""
    leave_reason: str | None = None
    """Why the processes of `begin` were told to leave."""
    is_staying: bool = False
    """They were told to leave with their state."""
    is_dispensable: bool = False
    """The coordinator knows that this pod must go, and that the state survives without it."""
    leave_at: float | None = None
    """When the processes of a pod that must go are told to leave, if nobody has said how."""
    has_moved: bool = False
    """The processes of the generation in `stopped` left it at a step boundary, with their state."""
    ended: Generation | None = None
    """The newest generation that must not run here any more."""
    stopped: Generation | None = None
    """The newest generation reported as gone."""
    step_seconds: float = 0.0
    """What the latest step took, of whichever rank and generation."""
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
    """The agent was told to exit."""

    @property
    def pids(self) -> dict[int, int]:
        """Process id by launch of the processes that run."""
        places: list[Slot | ParkedProcess] = [*self.slots, *self.parked]
        return {
            place.launch: place.pid
            for place in places
            if place.launch is not None and place.pid is not None
        }

    @property
    def generation(self) -> Generation | None:
        """The generation whose processes run here, or are about to."""
        return self.begin.generation if self.begin else None

    @property
    def acting(self) -> Generation | None:
        """The newest generation in which a process here may still act."""
        older = [slot.generation for slot in self.slots if slot.is_busy and slot.generation]
        return self.generation or max(older, key=key, default=None)

    @property
    def live(self) -> tuple[Slot, ...]:
        """The places with a process."""
        return tuple(slot for slot in self.slots if slot.is_live)

    @property
    def is_busy(self) -> bool:
        """Some process here still acts, or is about to end."""
        return any(slot.is_busy for slot in self.slots)

    @property
    def is_leaving(self) -> bool:
        """The agent got SIGTERM."""
        return self.leave_deadline is not None

    @property
    def is_draining(self) -> bool:
        """The processes of `begin` were told to leave."""
        return self.leave_reason is not None

    def slot_of(self, launch: int) -> Slot | None:
        """The place of a process; None when it has none, or is known to be gone."""
        return next((slot for slot in self.slots if slot.launch == launch), None)

    def parked_of(self, launch: int) -> ParkedProcess | None:
        """The parked process of a launch; None when that is no such process."""
        return next((parked for parked in self.parked if parked.launch == launch), None)

    def with_parked(self, changed: ParkedProcess) -> "AgentState":
        """This state with one parked process changed."""
        parked = tuple(changed if p.launch == changed.launch else p for p in self.parked)
        return replace(self, parked=parked)

    def without_parked(self, launch: int) -> "AgentState":
        """This state with one parked process less."""
        return replace(self, parked=tuple(p for p in self.parked if p.launch != launch))

    @property
    def num_warm(self) -> int:
        """Parked processes that could take a place at once."""
        return sum(parked.is_warm and not parked.is_killed for parked in self.parked)

    def with_slot(self, changed: Slot) -> "AgentState":
        """This state with one place changed."""
        slots = tuple(changed if slot.index == changed.index else slot for slot in self.slots)
        return replace(self, slots=slots)

    def reports(self, now: float) -> tuple[SlotReport, ...]:
        """All places, as told with every heartbeat."""
        return tuple(slot.report(self.generation, now) for slot in self.slots)

    def register(self, now: float) -> Register:
        """The first message of a connection."""
        identity = self.identity
        return Register(
            agent=identity.name,
            role=identity.role,
            replica=identity.replica,
            place=self.place,
            node=identity.node,
            host=identity.host,
            num_slots=identity.num_slots,
            promised=self.promised,
            generation=self.acting,
            latest=self.latest,
            world_size=self.latest_world_size,
            store=self.store,
            slots=self.reports(now),
            num_warm=self.num_warm,
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
