"""One simulated job from its beginning to its conclusion."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from random import Random
from typing import Literal

from simulated.network import TICK, Connection, Coordinator
from simulated.parts import HEARTBEAT, Agent
from simulated.pods import Pods
from simulated.training import TOTAL_STEPS, Training
from simulated.wrongs import Fault, Program

from reknit.agent import events as agent_events
from reknit.agent.state import Identity, new_state
from reknit.coordinator import events, quorum
from reknit.coordinator.policy import Policy
from reknit.coordinator.state import new_membership
from reknit.protocol.base import Endpoint
from reknit.protocol.outcome import Conclusion, ExitClass
from reknit.protocol.status import EventRecord, StepRecord


class World(Training):
    """One job from its beginning to its conclusion."""

    def __init__(
        self,
        seed: int,
        *,
        faults: tuple[Fault, ...] = (),
        program: Program | None = None,
        num_workers: int = 3,
        processes_per_worker: int = 1,
        num_spares: int = 0,
        may_shrink: bool = False,
        is_replicated: bool = True,
        replacement_seconds: float = 1.0,
        max_delay: float = 0.05,
        hang_after: float = 1.0,
    ) -> None:
        super().__init__()
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
        self.policy = Policy(
            num_workers=num_workers,
            min_workers=1,
            processes_per_worker=processes_per_worker,
            num_spares=num_spares,
            may_shrink=may_shrink,
            is_replicated=is_replicated,
            replacement_wait=timedelta(seconds=4),
            hang_after=timedelta(seconds=hang_after),
            # As in reality, silence is noticed before a phase has lasted too long.
            loading_silence=timedelta(seconds=6),
            phase_limit=timedelta(seconds=12),
        )
        self.agents: list[Agent] = []
        self.coordinators: list[Coordinator] = []
        self.generations: list[tuple[int, int]] = []
        self.records: list[StepRecord | EventRecord] = []
        self.conclusions: list[Conclusion] = []
        self.num_outdone = 0
        """Coordinators that heard of a higher incarnation."""
        self.is_over = False
        self.start_coordinator()
        self.pods = Pods(self)
        for replica in range(num_workers):
            self.start_agent(replica)
        for index in range(num_spares):
            self.start_agent(index, "spare")
        if num_spares:
            self.later(1.0, 2.0, self.pods.reconcile)
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

    def start_agent(self, replica: int, role: Literal["worker", "spare"] = "worker") -> None:
        name = f"{role}-{replica}-{next(self.names)}"
        identity = Identity(
            name=name,
            role=role,
            replica=replica,
            node=f"node-{role}-{replica}",
            host="127.0.0.1",
            num_slots=self.policy.processes_per_worker,
            is_command=False,
            heartbeat_seconds=HEARTBEAT,
            dead_after_seconds=self.policy.dead_after.total_seconds(),
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

    def connect(self, agent: Agent, coordinator: Coordinator) -> Connection:
        connection = Connection(self, next(self.numbers), agent, coordinator)
        coordinator.connections[connection.number] = connection
        return connection

    def operator_sees(self, agent: Agent) -> None:
        """Replaces a pod that is gone; one whose message says that the job is over ends it.

        A coordinator that misses it is told.
        """
        self.later(0.05, 1.0, lambda: self.confirm_gone(agent))
        if agent.exited is not None and agent.exited in self.conclusions:
            self.is_over = True
            self.later(5.0, 6.0, self.clean_up)
        elif not self.policy.num_spares:
            wait = self.replacement_seconds
            self.later(wait / 2, wait, lambda: self.is_over or self.start_agent(agent.replica))

    def confirm_gone(self, agent: Agent) -> None:
        """Once the coordinator asks, or counts on it; the operator polls its status."""
        newest = self.coordinators[-1]
        current = newest.state.current
        awaited = {*quorum.missing(newest.state), *(current.agents if current else ())}
        if newest.alive and agent.name in awaited:
            newest.feed(events.ConfirmedGone(agent.name))
        if not self.is_over:
            self.later(0.5, 1.0, lambda: self.confirm_gone(agent))

    def clean_up(self) -> None:
        """Pods that were not told that the job is over, because nobody was there to tell them."""
        for agent in self.agents:
            if agent.alive:
                agent.feed(agent_events.Terminated())

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
        elif kind == "hang rank" and running:
            self.random.choice(running).hung = True
        elif kind == "lose message" and running and running[0].assign is not None:
            self.lost_message = running[0].assign.generation
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
