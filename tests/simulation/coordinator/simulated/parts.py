"""Agents, which are real state machines, and their processes, which are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reknit.agent import events as agent_events
from reknit.agent import machine
from reknit.agent.state import AgentState
from reknit.protocol.outcome import Conclusion
from reknit.protocol.ranks import (
    Assign,
    Beat,
    Phase,
)

if TYPE_CHECKING:
    from simulated.network import Connection
    from simulated.world import World

HEARTBEAT = 0.2


@dataclass
class Process:
    launch: int
    assign: Assign
    agent: Agent
    alive: bool = True
    joined: bool = False
    frozen: bool = False
    phase: Phase = Phase.STARTING
    step: int = 0
    finished: bool = False
    speaks_at: float = 0.0

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
            case agent_events.Launch(launch=launch, assign=assign, hosts_store=hosts):
                self.launch(launch, assign, hosts=hosts)
            case agent_events.Tell(launch, message):
                world.later(0.001, 0.02, lambda: world.told(self, launch, message))
            case agent_events.Kill(launch):
                if launch in self.processes:
                    self.processes[launch].end(signal=9)
            case agent_events.Exit(conclusion=conclusion):
                self.exited = conclusion
                self.die()

    def launch(self, launch: int, assign: Assign, *, hosts: bool) -> None:
        older = [p for p in self.processes.values() if p.alive]
        assert not [p for p in older if p.assign.generation != assign.generation]
        key = assign.generation.key()
        assert key >= self.newest, "an agent never goes back to an older generation"
        self.newest = key
        process = Process(launch, assign, self)
        self.processes[launch] = process
        self.world.later(0.01, 0.3, lambda: self.world.started(process))
        if hosts:
            self.world.later(0.001, 0.05, self.offer)

    def offer(self) -> None:
        if self.alive:
            self.feed(agent_events.Offered(self.world.endpoint()))

    def tick(self) -> None:
        if not self.alive:
            return
        for process in tuple(self.processes.values()):
            if process.alive and not process.frozen and process.phase is not Phase.STARTING:
                beat = Beat(phase=process.phase, step=process.step)
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
