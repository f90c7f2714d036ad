"""Agents, which are real state machines, and their processes, which are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reknit.agent import events as agent_events
from reknit.agent import machine
from reknit.agent.state import AgentState
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion
from reknit.protocol.ranks import Assign, Beat, Phase

if TYPE_CHECKING:
    from simulated.network import Connection
    from simulated.world import World

HEARTBEAT = 0.2


@dataclass
class Process:
    launch: int
    agent: Agent
    assign: Assign | None = None
    """Its newest place."""
    alive: bool = True
    warm: bool = False
    joined: bool = False
    frozen: bool = False
    hung: bool = False
    """It lives, beats, and gets no further."""
    place: int = 0
    """How far it has come in its generation."""
    aborted: Generation | None = None
    """The newest generation that it was told to leave."""
    left: Generation | None = None
    """The newest generation that it has left."""
    phase: Phase = Phase.STARTING
    memory: int | None = None
    """The version that it holds."""
    passed: int | None = None
    """The version whose gate it has passed, and which it is about to hold."""
    has_left: bool = False
    """It has finished because it was told to leave."""
    speaks_at: float = 0.0
    hears_at: float = 0.0

    def acts_in(self, generation: Generation) -> bool:
        """It has a place there, and has not left."""
        mine = self.assign is not None and self.assign.generation == generation
        return self.alive and mine and self.left != generation

    @property
    def is_acting(self) -> bool:
        return self.assign is not None and self.acts_in(self.assign.generation)

    @property
    def is_well(self) -> bool:
        return self.alive and not self.frozen and not self.hung

    @property
    def beats(self) -> bool:
        return self.alive and not self.frozen and self.phase is not Phase.STARTING

    def hear(self, do: Callable[[], None]) -> None:
        """What the agent tells arrives in order, a little later, unless nobody listens."""
        world = self.agent.world
        self.hears_at = max(self.hears_at, world.now + world.random.uniform(0.001, 0.02))
        world.at(self.hears_at, lambda: do() if self.is_well else None)

    def say(self, message: object, then: Callable[[], None] | None = None) -> None:
        """Reaches the agent in order, a little later."""
        world = self.agent.world
        self.speaks_at = max(self.speaks_at, world.now + world.random.uniform(0.001, 0.05))

        def arrive() -> None:
            if self.agent.alive:
                self.agent.feed(agent_events.Said(self.launch, message))
            if then is not None:
                then()

        world.at(self.speaks_at, arrive)

    def end(self, *, code: int | None = None, signal: int | None = None) -> None:
        """The process is gone now; its agent learns of it later, after all that it said."""
        if not self.alive:
            return
        self.alive = False
        world = self.agent.world
        self.speaks_at = max(self.speaks_at, world.now + world.random.uniform(0.001, 0.05))

        def arrive() -> None:
            if self.agent.alive:
                self.agent.processes.pop(self.launch, None)
                self.agent.feed(agent_events.Ended(self.launch, exit_code=code, signal=signal))

        world.at(self.speaks_at, arrive)


@dataclass
class Agent:
    world: World
    name: str
    replica: int
    state: AgentState
    processes: dict[int, Process] = field(default_factory=dict)
    connection: Connection | None = None
    alive: bool = True
    cut_until: float = 0.0
    """Partitioned from every coordinator until then."""
    exited: Conclusion | None = None
    commanded_by: int = 0
    """Incarnation of the coordinator that was obeyed last."""
    newest: tuple[int, int] = (0, 0)

    @property
    def place(self) -> int | None:
        """The worker's place that it has, as far as it knows; None for a spare."""
        return self.replica if self.state.identity.role == "worker" else self.state.place

    def feed(self, event: agent_events.Event, by: int | None = None) -> None:
        self.state, actions = machine.handle(self.state, event, self.world.now)
        obeyed = [a for a in actions if not isinstance(a, agent_events.Log | agent_events.Send)]
        if by is not None and any(not isinstance(a, agent_events.HangUp) for a in obeyed):
            assert by >= self.commanded_by, f"{self.name} obeys {by} after {self.commanded_by}"
            self.commanded_by = by
        for action in actions:
            self.do(action)

    def do(self, action: agent_events.Action) -> None:
        world = self.world
        match action:
            case agent_events.Send(message):
                if self.connection is not None:
                    self.connection.up(message)
            case agent_events.HangUp():
                if self.connection is not None:
                    self.connection.close()
            case agent_events.Launch(launch):
                process = Process(launch, self)
                self.processes[launch] = process
                world.later(0.01, 0.3, lambda: world.started(process))
            case agent_events.GivePlace(launch, assign, hosts):
                self.give_place(launch, assign, hosts=hosts)
            case agent_events.Tell(launch, message):
                if launch in self.processes:
                    process = self.processes[launch]
                    process.hear(lambda: world.told(process, message))
            case agent_events.Kill(launch):
                if launch in self.processes:
                    self.kill(self.processes[launch])
            case agent_events.Exit(conclusion=conclusion):
                self.exited = conclusion
                # It exits when its last words are out.
                open_until = self.connection.up_at if self.connection else world.now
                world.at(open_until, self.die)

    def kill(self, process: Process) -> None:
        """What is killed though it is well must be somebody's wish."""
        if process.is_well and process.assign is not None and not self.world.conclusions:
            self.world.num_sacrificed += 1
        process.end(signal=9)

    def give_place(self, launch: int, assign: Assign, *, hosts: bool) -> None:
        acting = [p.assign.generation for p in self.processes.values() if p.is_acting and p.assign]
        assert set(acting) <= {assign.generation}, "an older generation still acts here"
        key = assign.generation.key()
        assert key >= self.newest, "an agent never goes back to an older generation"
        self.newest = key
        process = self.processes.get(launch)
        if process is not None:
            process.hear(lambda: self.world.placed(process, assign))
        if hosts:
            self.world.later(0.001, 0.05, self.offer)

    def offer(self) -> None:
        if self.alive:
            self.feed(agent_events.Offered(self.world.endpoint()))

    def tick(self) -> None:
        if not self.alive:
            return
        for process in tuple(self.processes.values()):
            if process.beats:
                step = process.memory or 0
                beat = Beat(phase=process.phase, step=step, place=process.place)
                self.feed(agent_events.Said(process.launch, beat))
        self.feed(agent_events.Tick())
        self.world.later(HEARTBEAT, HEARTBEAT, self.tick)

    def connect(self) -> None:
        """Tries again and again while there is no connection."""
        world = self.world
        if self.alive and self.connection is None and world.now >= self.cut_until:
            coordinator = world.reachable()
            if coordinator is not None:
                self.connection = world.connect(self, coordinator)
                self.feed(agent_events.Connected())
        if self.alive:
            world.later(0.05, 0.5, self.connect)

    def die(self) -> None:
        if not self.alive:
            return
        self.alive = False
        for process in self.processes.values():
            process.alive = False
        if self.connection is not None:
            self.connection.close()
        self.world.operator_sees(self)
