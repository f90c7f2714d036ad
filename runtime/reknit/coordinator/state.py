"""What a coordinator knows about its job: frozen values. All times are seconds since the epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reknit.coordinator.pace import Pace
from reknit.coordinator.policy import Policy
from reknit.coordinator.progress import Steps
from reknit.coordinator.recovery import Recoveries
from reknit.coordinator.stragglers import Loads
from reknit.protocol.agents import Exited, FromSlot, SlotReport
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import Phase
from reknit.protocol.status import CheckpointStatus


@dataclass(frozen=True, slots=True)
class Agent:
    """A live agent: one whose heartbeats have not been missing for too long."""

    name: str
    replica: int | None
    """The worker's place that it fills; None for a spare without one."""
    host: str
    node: str
    store: Endpoint
    heard: float
    joined: float
    connection: int | None
    """None while it is not connected."""
    running: Generation | None = None
    """The newest generation in which processes may act there; None once it has said Stopped."""
    latest: Generation | None = None
    """The newest generation that it had ranks of when it registered, even if that was over."""
    world_size: int | None = None
    """Ranks of `latest`, as the agent said then."""
    slots: tuple[SlotReport, ...] = ()
    leaving_since: float | None = None
    """When it was heard that its pod must go."""
    grace_seconds: float = 0.0
    """How long the pod has from then on."""
    used_store: Endpoint | None = None
    """What it offered when it was last given rank 0: taken, whatever it still says."""
    exits: tuple[Exited, ...] = ()
    """Ends of processes that were reported before this coordinator had a generation."""
    told: tuple[FromSlot, ...] = ()
    """What its ranks said before that."""
    is_spare: bool = False
    """It was made as a spare, whatever place it fills."""
    is_warm: bool = False
    """It has a warm process for each of its places."""
    claim: int | None = None
    """The worker's place that a spare itself says it was given."""
    num_miscomputed: int = 0
    """Processes of it that have ended because they compute wrong numbers."""
    instead_of: str | None = None
    """The agent whose place a spare was given, as far as known."""

    @property
    def is_present(self) -> bool:
        """It can take part in a generation."""
        return self.connection is not None and not self.leaving

    @property
    def leaving(self) -> bool:
        """Its pod must go."""
        return self.leaving_since is not None


@dataclass(frozen=True, slots=True)
class Member:
    """One rank of the current generation."""

    rank: int
    agent: str
    slot: int
    phase: Phase = Phase.STARTING
    step: int = 0
    place: int = 0
    """How far it has come after that version, as in `Beat`."""
    pid: int | None = None
    error: ErrorReport | None = None
    faulty: bool = False
    """A fault of this rank is among the generation's."""
    finished: bool = False
    """It has said Finished; nothing is left to do for it."""
    left: bool = False
    """It finished because it was told to leave."""
    unsaved: str | None = None
    """Why its last version is not durable, and from where training resumes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a generation cannot go on."""

    detected: float
    exit_class: ExitClass
    sentence: str
    rank: int | None = None
    error: ErrorReport | None = None
    from_process: bool = True
    """False for the loss of an agent, which is no failure of the program's processes."""
    silence: float | None = None
    """Seconds between the last sign of life and the detection, where that is how it was found."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A rank has lost its connection to another one, which may be the consequence of a fault."""

    since: float
    rank: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Running:
    """The current generation."""

    id: Generation
    members: tuple[Member, ...]
    """Indexed by rank."""
    store: Endpoint | None
    """None in a generation of an earlier incarnation."""
    confirmed: frozenset[str] = frozenset()
    """Agents that were heard to have it."""
    draining: str | None = None
    """Why its ranks were told to leave."""
    staying: bool = False
    """They were told to keep their state and take part in the next generation."""
    leaving: tuple[str, ...] = ()
    """Agents whose pods must go, as far as its ranks were told to leave for them."""
    hint: Hint | None = None
    """The first sign that something is wrong of which no fault is known yet."""
    faults: tuple[Fault, ...] = ()

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of its agents in the order of their lowest ranks."""
        return tuple(dict.fromkeys(member.agent for member in self.members))

    @property
    def all_finished(self) -> bool:
        """No rank has anything left to do."""
        return all(member.finished for member in self.members)

    def with_member(self, changed: Member) -> "Running":
        """This generation with one rank changed."""
        members = (*self.members[: changed.rank], changed, *self.members[changed.rank + 1 :])
        return replace(self, members=members)

    def with_fault(self, fault: Fault) -> "Running":
        """This generation with one more reason to end."""
        return replace(self, faults=(*self.faults, fault))


@dataclass(frozen=True, slots=True)
class Previous:
    """The newest generation that is over; a smaller world needs its majority."""

    id: Generation
    num_agents: int
    agents: frozenset[str]
    """Names, as far as known."""


@dataclass(frozen=True, slots=True)
class Strike:
    """Exceptions that were answered by redoing the step once."""

    exceptions: frozenset[str]
    committed: int


@dataclass(frozen=True, slots=True)
class Membership:
    """Everything that one coordinator decides by."""

    policy: Policy
    incarnation: int
    started: float
    gathering_until: float | None
    """While not None, agents may still bring an older incarnation's generation along."""
    counter: int = 0
    """Of the newest generation that this incarnation has formed."""
    agents: Mapping[str, Agent] = field(default_factory=dict)
    departed: frozenset[str] = frozenset()
    """Agents that were lost or left; one of them does not get its place back from another."""
    gone: frozenset[str] = frozenset()
    """Agents that certainly have no process left: they left, or the operator has said so."""
    vacated: Mapping[int, str] = field(default_factory=dict)
    """The latest agent that was lost from the place of a worker, or left it, by replica."""
    current: Running | None = None
    previous: Previous | None = None
    waiting_since: float = 0.0
    strike: Strike | None = None
    failures: int = 0
    """Process failures since a new step was committed."""
    failure_times: tuple[float, ...] = ()
    """When processes have failed, as far as the window of their budget reaches back."""
    failures_by_class: Mapping[ExitClass, int] = field(default_factory=dict)
    steps: Steps = field(default_factory=Steps)
    pace: Pace = field(default_factory=Pace)
    loads: Loads = field(default_factory=dict)
    stalled_at: int | None = None
    """The version after which all ranks alike came to a halt, when that was last seen."""
    recoveries: Recoveries = field(default_factory=Recoveries)
    checkpoint: CheckpointStatus = field(default_factory=CheckpointStatus)
    conclusion: Conclusion | None = None
    superseded_by: int | None = None
    last_event: float = 0.0

    @property
    def last_generation(self) -> Generation:
        """Covers every generation this incarnation has formed and all of earlier ones."""
        return Generation(incarnation=self.incarnation, counter=self.counter)

    @property
    def workers(self) -> tuple[Agent, ...]:
        """The agents in the places of workers."""
        return tuple(agent for agent in self.agents.values() if agent.replica is not None)

    @property
    def spares(self) -> tuple[Agent, ...]:
        """The spares without a place."""
        return tuple(agent for agent in self.agents.values() if agent.replica is None)

    def agent_of(self, connection: int) -> Agent | None:
        """The agent that speaks through this connection."""
        return next((a for a in self.agents.values() if a.connection == connection), None)

    def with_agent(self, agent: Agent) -> "Membership":
        """This membership with one agent added or changed."""
        return replace(self, agents={**self.agents, agent.name: agent})

    def without_agent(self, name: str) -> "Membership":
        """This membership with an agent gone."""
        agents = {key: agent for key, agent in self.agents.items() if key != name}
        replica = self.agents[name].replica
        vacated = self.vacated if replica is None else {**self.vacated, replica: name}
        departed = self.departed | {name}
        return replace(self, agents=agents, departed=departed, vacated=vacated)


def newest(*generations: Generation | None) -> Generation | None:
    """The newest of those that there are."""
    return max((g for g in generations if g is not None), key=Generation.key, default=None)


def new_membership(policy: Policy, incarnation: int, now: float) -> Membership:
    """What a coordinator knows when it starts."""
    return Membership(
        policy=policy,
        incarnation=incarnation,
        started=now,
        gathering_until=now + policy.adoption_wait.total_seconds(),
        waiting_since=now,
        last_event=now,
    )
