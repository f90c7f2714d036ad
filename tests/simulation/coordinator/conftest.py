"""A job in virtual time: real state machines of coordinator and agents, everything else made up.

Networks deliver in order on each connection and in any order between connections. Processes,
collectives, checkpoints, the operator's replacements and all faults are simulated; what really
happened is therefore known, and every decision is compared with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from random import Random

import pytest

from reknit.agent import events as agent_events
from reknit.agent import machine
from reknit.agent.state import AgentState, Identity, new_state
from reknit.coordinator import events
from reknit.coordinator.membership import handle
from reknit.coordinator.policy import Policy
from reknit.coordinator.state import Membership, new_membership
from reknit.protocol.agents import Begin, Conclude
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import (
    Assign,
    Beat,
    Checkpointed,
    Failed,
    Finished,
    Leave,
    Phase,
    Release,
    Resumed,
    StepDone,
)
from reknit.protocol.status import EventRecord, StepRecord

TOTAL_STEPS = 12
CHECKPOINT_EVERY = 4
HEARTBEAT = 0.2
TICK = 0.1


@dataclass(frozen=True)
class Fault:
    """Something goes wrong (or is asked for) at a moment."""

    at: float
    kind: str
    target: int = 0


@dataclass(frozen=True)
class Program:
    """An exception in the user's function: on which ranks, at which step, how often."""

    step: int
    ranks: frozenset[int] | None
    """None: on all of them."""
    times: int
    exit_class: ExitClass = ExitClass.PROGRAM_ERROR


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
                self.connection = Connection(world, next(world.numbers), self, coordinator)
                coordinator.connections[self.connection.number] = self.connection
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
                case events.StepDown():
                    self.die()

    def check_begin(self, generation: Generation) -> None:
        """It is new, or told again; and nothing older runs on an agent that counts as live."""
        assert generation.key() >= self.begun
        if generation.key() > self.begun:
            assert generation.key() not in self.world.generations, "used twice"
            self.world.generations.append(generation.key())
            for agent in self.world.agents:
                if not agent.alive or agent.name not in self.state.agents:
                    continue
                left = [p for p in agent.processes.values() if p.alive]
                assert not left, f"{agent.name} still runs {left[0].assign.generation}"
        self.begun = generation.key()

    def tick(self) -> None:
        if self.alive:
            self.feed(events.Tick())
            self.world.later(TICK, TICK, self.tick)

    def die(self) -> None:
        self.alive = False
        for connection in tuple(self.connections.values()):
            connection.close()


class World:
    """One job from its beginning to its conclusion."""

    def __init__(
        self,
        seed: int,
        *,
        faults: tuple[Fault, ...] = (),
        program: Program | None = None,
        num_workers: int = 3,
        processes_per_worker: int = 1,
        may_shrink: bool = False,
        replacement_seconds: float = 1.0,
        max_delay: float = 0.05,
    ) -> None:
        self.random = Random(seed)
        self.now = 1_000.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.numbers = count(1)
        self.ports = count(20_000)
        self.names = count()
        self.max_delay = max_delay
        self.replacement_seconds = replacement_seconds
        self.program = program
        self.raised = 0
        self.policy = Policy(
            num_workers=num_workers,
            min_workers=1,
            processes_per_worker=processes_per_worker,
            may_shrink=may_shrink,
            replacement_wait=timedelta(seconds=4),
        )
        self.agents: list[Agent] = []
        self.coordinators: list[Coordinator] = []
        self.generations: list[tuple[int, int]] = []
        self.records: list[StepRecord | EventRecord] = []
        self.checkpoint = 0
        self.leave: set[tuple[int, int]] = set()
        self.steps: dict[tuple[int, int], int] = {}
        self.committed = 0
        self.finished: dict[tuple[int, int], set[int]] = {}
        self.conclusions: list[Conclusion] = []
        self.is_over = False
        self.start_coordinator()
        for replica in range(num_workers):
            self.start_agent(replica)
        for fault in faults:
            self.at(self.now + fault.at, lambda fault=fault: self.strike(fault))

    # Time

    def at(self, moment: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (max(moment, self.now), next(self.order), do))

    def later(self, least: float, most: float, do: Callable[[], None]) -> None:
        self.at(self.now + self.random.uniform(least, most), do)

    def delay(self) -> float:
        return self.random.uniform(0.0005, self.max_delay)

    def run(self, seconds: float = 240.0) -> Conclusion:
        """Lets time pass until the job is over and its agents are gone.

        Raises:
            AssertionError: the job hangs.
        """
        end = self.now + seconds
        while self.queue and self.now < end:
            self.now, _, do = heapq.heappop(self.queue)
            do()
            if self.is_over and not any(agent.alive for agent in self.agents):
                return self.conclusions[0]
        newest = self.coordinators[-1].state
        raise AssertionError(
            f"hangs: running {newest.current}, agents "
            f"{[(a.name, a.running, a.connection) for a in newest.agents.values()]}"
        )

    # Parts

    def endpoint(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=next(self.ports))

    def start_agent(self, replica: int) -> None:
        name = f"worker-{replica}-{next(self.names)}"
        identity = Identity(
            name=name,
            role="worker",
            replica=replica,
            node=f"node-{replica}",
            host="127.0.0.1",
            num_slots=self.policy.processes_per_worker,
            is_command=False,
            heartbeat_seconds=HEARTBEAT,
            grace_seconds=6.0,
        )
        agent = Agent(self, name, replica, new_state(identity, self.endpoint()))
        self.agents.append(agent)
        self.later(0.01, 1.0, agent.connect)
        self.later(0.0, HEARTBEAT, agent.tick)
        self.later(0.1, 2.0, lambda: agent.alive and agent.feed(agent_events.Ready()))

    def start_coordinator(self) -> None:
        """The operator has the pods of earlier ones deleted, which may take a while."""
        for stale in self.coordinators:
            if stale.alive:
                self.later(1.0, 5.0, stale.die)
        incarnation = len(self.coordinators) + 1
        coordinator = Coordinator(self, new_membership(self.policy, incarnation, self.now))
        self.coordinators.append(coordinator)
        self.later(0.0, TICK, coordinator.tick)

    def reachable(self) -> Coordinator | None:
        """Mostly the newest one; a stale one for as long as it lives and the network is odd."""
        living = [coordinator for coordinator in self.coordinators if coordinator.alive]
        if len(living) > 1 and self.random.random() < 0.3:
            return living[0]
        return living[-1] if living else None

    def operator_sees(self, agent: Agent) -> None:
        """Replaces a pod that is gone; one whose message says that the job is over ends it."""
        if agent.exited is not None and agent.exited in self.conclusions:
            self.is_over = True
            self.later(5.0, 6.0, self.clean_up)
        else:
            wait = self.replacement_seconds
            self.later(wait / 2, wait, lambda: self.is_over or self.start_agent(agent.replica))

    def clean_up(self) -> None:
        """Pods that were not told that the job is over, because nobody was there to tell them."""
        for agent in self.agents:
            if agent.alive:
                agent.feed(agent_events.Terminated())

    # Training

    def started(self, process: Process) -> None:
        if not process.alive:
            return
        process.agent.feed(agent_events.Started(process.launch, 4000 + process.launch))
        process.phase = Phase.LOADING
        self.later(0.05, 0.5, lambda: self.joined(process))

    def joined(self, process: Process) -> None:
        """The collective is there when its last rank is."""
        process.joined = True
        generation = process.assign.generation
        ranks = self.ranks(generation)
        if len(ranks) == process.assign.world_size and all(p.joined for p in ranks):
            if generation.key() in self.steps:
                return
            self.steps[generation.key()] = self.checkpoint
            for rank in ranks:
                rank.step = self.checkpoint
                rank.phase = Phase.STEP
            source = "beginning" if self.checkpoint == 0 else f"step-{self.checkpoint}"
            ranks[0].say(Resumed(generation=generation, step=self.checkpoint, source=source))
            self.later(0.05, 0.3, lambda: self.step(generation))

    def ranks(self, generation: Generation) -> list[Process]:
        found = [
            process
            for agent in self.agents
            if agent.alive
            for process in agent.processes.values()
            if process.assign.generation == generation and process.alive
        ]
        return sorted(found, key=lambda process: process.assign.rank)

    def step(self, generation: Generation) -> None:
        """One collective step, if all ranks are able to take part."""
        ranks = self.ranks(generation)
        key = generation.key()
        if not ranks or len(ranks) < ranks[0].assign.world_size:
            for rank in ranks:
                if self.random.random() < 0.5:
                    self.later(0.01, 0.3, lambda rank=rank: self.raise_(rank, _peer_lost()))
            return
        if any(rank.frozen for rank in ranks):
            self.later(0.1, 0.3, lambda: self.step(generation))
            return
        done = self.steps[key]
        if done < TOTAL_STEPS and self.raises(done, ranks):
            return
        left = key in self.leave and done < TOTAL_STEPS
        if left or done == TOTAL_STEPS:
            self.checkpoint = max(self.checkpoint, done)
            for rank in ranks:
                rank.phase = Phase.CLOSING
                rank.say(Finished(generation=generation, step=done, left=left))
                rank.finished = True
            if not left:
                self.finished[key] = {rank.assign.rank for rank in ranks}
            return
        self.commit(generation, ranks, done + 1)
        self.later(0.05, 0.3, lambda: self.step(generation))

    def commit(self, generation: Generation, ranks: list[Process], step: int) -> None:
        self.steps[generation.key()] = step
        self.committed = max(self.committed, step)
        for rank in ranks:
            rank.step = step
            rank.say(
                StepDone(
                    generation=generation,
                    step=step,
                    total_steps=TOTAL_STEPS,
                    samples=8,
                    metrics={"loss": 1.0 / step},
                )
            )
        if step % CHECKPOINT_EVERY == 0:
            self.checkpoint = max(self.checkpoint, step)
            ranks[0].say(Checkpointed(step=step, location=f"step-{step}", seconds=0.1))

    def raises(self, done: int, ranks: list[Process]) -> bool:
        """Whether the user's program fails in this step."""
        program = self.program
        if program is None or done != program.step or self.raised >= program.times:
            return False
        self.raised += 1
        text = "ValueError: no such thing"
        error = ErrorReport(exception=text, traceback=text, exit_class=program.exit_class)
        for rank in ranks:
            if program.ranks is None or rank.assign.rank in program.ranks:
                self.later(0.0, 0.2, lambda rank=rank: self.raise_(rank, error))
            elif self.random.random() < 0.5:
                self.later(0.2, 0.4, lambda rank=rank: self.raise_(rank, _peer_lost()))
        return True

    def raise_(self, process: Process, error: ErrorReport) -> None:
        if process.alive:
            process.say(Failed(generation=process.assign.generation, error=error))
            process.end(code=1)

    def told(self, agent: Agent, launch: int, message: object) -> None:
        process = agent.processes.get(launch)
        if process is None or not process.alive:
            return
        if isinstance(message, Leave):
            self.leave.add(process.assign.generation.key())
        if isinstance(message, Release):
            process.end(code=0)

    # Faults

    def strike(self, fault: Fault) -> None:
        agents = [agent for agent in self.agents if agent.alive]
        if fault.kind == "crash coordinator":
            self.coordinators[-1].die()
            self.later(0.1, 2.0, self.start_coordinator)
        elif fault.kind == "second coordinator":
            self.start_coordinator()
        elif agents and not self.is_over:
            self.strike_agent(fault.kind, agents[fault.target % len(agents)])

    def strike_agent(self, kind: str, agent: Agent) -> None:
        running = [process for process in agent.processes.values() if process.alive]
        if kind == "kill rank" and running:
            self.random.choice(running).end(signal=9)
        elif kind == "freeze rank" and running:
            self.random.choice(running).frozen = True
        elif kind == "kill agent":
            agent.die()
        elif kind == "terminate agent":
            agent.feed(agent_events.Terminated())
        elif kind == "drop connection" and agent.connection is not None:
            agent.connection.close()
        elif kind == "cut off" and agent.connection is not None:
            agent.cut_until = self.now + self.random.uniform(0.5, 5.0)
            agent.connection.close()

    def check_conclusion(self, coordinator: Coordinator, conclusion: Conclusion) -> None:
        """A conclusion is what really happened."""
        if conclusion in self.conclusions:
            return
        self.conclusions.append(conclusion)
        assert len({c.exit_class for c in self.conclusions}) == 1, self.conclusions
        if conclusion.exit_class is ExitClass.SUCCEEDED:
            running = coordinator.state.current
            assert running is not None
            ranks = set(range(len(running.members)))
            assert self.finished.get(running.id.key()) == ranks, "not all ranks have finished"
            assert self.checkpoint == TOTAL_STEPS
        elif conclusion.exit_class is ExitClass.PROGRAM_ERROR:
            program = self.program
            assert program is not None
            assert conclusion.error is not None
            assert conclusion.error.exception == "ValueError: no such thing"
            assert program.ranks is None or self.raised > 1, "one strike is no conviction"
        else:
            assert self.program is not None
            assert conclusion.exit_class is self.program.exit_class


def _peer_lost() -> ErrorReport:
    text = "RuntimeError: connection closed by peer"
    return ErrorReport(exception=text, traceback=text, exit_class=ExitClass.INFRASTRUCTURE)


@pytest.fixture(scope="session")
def world() -> type[World]:
    """Makes a job: `world(seed, faults=...)`."""
    return World


@pytest.fixture(scope="session")
def fault() -> type[Fault]:
    return Fault


@pytest.fixture(scope="session")
def program() -> type[Program]:
    return Program
