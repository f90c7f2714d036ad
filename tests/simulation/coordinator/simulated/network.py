"""Coordinators, which are real state machines, and the connections of their agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reknit.agent import events as agent_events
from reknit.coordinator import events
from reknit.coordinator.membership import handle
from reknit.coordinator.state import Membership
from reknit.protocol.agents import Begin, Conclude, Register
from reknit.protocol.base import Generation
from reknit.protocol.status import Record

if TYPE_CHECKING:
    from simulated.parts import Agent
    from simulated.world import World

TICK = 0.1


@dataclass
class Connection:
    world: World
    number: int
    agent: Agent
    coordinator: Coordinator
    is_open: bool = True
    up_at: float = 0.0
    down_at: float = 0.0

    def up(self, message: object) -> None:
        self.up_at = max(self.up_at, self.world.now + self.world.delay())

        def arrive() -> None:
            if self.is_open and self.coordinator.alive:
                self.coordinator.feed(events.Received(self.number, message))
                self.coordinator.check_promise(message)

        self.world.at(self.up_at, arrive)

    def down(self, message: object) -> None:
        self.down_at = max(self.down_at, self.world.now + self.world.delay())

        def arrive() -> None:
            if self.is_open and self.agent.alive:
                event = agent_events.Received(message)
                self.agent.feed(event, by=self.coordinator.state.incarnation)

        self.world.at(self.down_at, arrive)

    def hang_up(self) -> None:
        self.down_at = max(self.down_at, self.world.now + self.world.delay())
        self.world.at(self.down_at, self.close)

    def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False

        def agent_notices() -> None:
            if self.agent.alive and self.agent.connection is self:
                self.agent.connection = None
                self.agent.feed(agent_events.Disconnected())

        def coordinator_notices() -> None:
            if self.coordinator.alive:
                self.coordinator.connections.pop(self.number, None)
                self.coordinator.feed(events.Disconnected(self.number))

        self.world.later(0.001, 0.3, agent_notices)
        self.world.later(0.001, 0.3, coordinator_notices)


@dataclass
class Coordinator:
    world: World
    state: Membership
    connections: dict[int, Connection] = field(default_factory=dict)
    alive: bool = True
    records: list[Record] = field(default_factory=list)
    begun: tuple[int, int] = (0, 0)

    def feed(self, event: events.Event) -> None:
        self.state, actions = handle(self.state, event, self.world.now)
        checked: set[tuple[int, int]] = set()
        for action in actions:
            match action:
                case events.Send(number, message):
                    if isinstance(message, Begin) and message.generation.key() not in checked:
                        checked.add(message.generation.key())
                        self.check_begin(message.generation)
                    if isinstance(message, Conclude):
                        self.world.check_conclusion(self, message.conclusion)
                    if number in self.connections:
                        self.connections[number].down(message)
                case events.HangUp(number):
                    if number in self.connections:
                        self.connections[number].hang_up()
                case events.Write(record):
                    self.world.records.append(record)
                    self.records.append(record)
                case events.StepDown():
                    self.die()

    def check_begin(self, generation: Generation) -> None:
        """It is new, or told again; and nothing older acts on an agent that counts as live."""
        assert generation.key() >= self.begun
        if generation.key() > self.begun:
            assert generation.key() not in self.world.generations, "used twice"
            self.world.generations.append(generation.key())
            for agent in self.world.agents:
                if not agent.alive or agent.name not in self.state.agents:
                    continue
                acting = [p.assign for p in agent.processes.values() if p.is_acting]
                assert not acting, f"{agent.name} still runs {acting}"
        self.begun = generation.key()

    def check_promise(self, message: object) -> None:
        """Whoever hears that an agent obeys a higher incarnation ends, and speaks no more."""
        if isinstance(message, Register) and message.promised > self.state.incarnation:
            self.world.num_outdone += 1
            assert not self.alive, f"coordinator {self.state.incarnation} goes on outdone"

    def tick(self) -> None:
        if self.alive:
            self.feed(events.Tick())
            self.world.later(TICK, TICK, self.tick)

    def die(self) -> None:
        self.alive = False
        for connection in tuple(self.connections.values()):
            connection.close()
