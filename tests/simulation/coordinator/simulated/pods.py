"""What the operator does about the pods of a job with spares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reknit.agent import events as agent_events

if TYPE_CHECKING:
    from simulated.parts import Agent
    from simulated.world import World

PATIENCE = 6.0
"""How long an empty place is left to a spare."""


@dataclass
class Pods:
    world: World
    empty_since: dict[int, float] = field(default_factory=dict)

    def reconcile(self) -> None:
        """Looks again and again what is missing, and which of two pods for one place must go."""
        world = self.world
        if world.is_over:
            return
        living = [agent for agent in world.agents if agent.alive and not agent.state.is_leaving]
        for replica in range(world.policy.num_workers):
            self._settle(replica, [agent for agent in living if agent.place == replica])
        idle = [agent for agent in living if agent.place is None]
        for replica, since in tuple(self.empty_since.items()):
            wait = max(world.replacement_seconds, PATIENCE if idle else 0.0)
            if world.now >= since + wait:
                del self.empty_since[replica]
                world.start_agent(replica)
        for index in range(world.policy.num_spares - len(idle) - len(self.empty_since)):
            world.start_agent(index, "spare")
        world.later(0.5, 1.0, self.reconcile)

    def _settle(self, replica: int, claiming: list[Agent]) -> None:
        """Whom the coordinator calls the worker is it; the others are deleted."""
        if not claiming:
            self.empty_since.setdefault(replica, self.world.now)
            return
        self.empty_since.pop(replica, None)
        workers = self.world.coordinators[-1].state.workers
        named = {agent.name for agent in workers if agent.replica == replica}
        if len(claiming) > 1 and named & {agent.name for agent in claiming}:
            for agent in claiming:
                if agent.name not in named:
                    agent.feed(agent_events.Terminated())
