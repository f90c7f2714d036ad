"""Spares: agents without a place, which are given those of workers that were lost."""

from dataclasses import replace

from reknit.coordinator.events import Write
from reknit.coordinator.quorum import others_cannot_go_on
from reknit.coordinator.records import write
from reknit.coordinator.state import Agent, Membership
from reknit.protocol.base import Generation


def candidates(state: Membership) -> list[Agent]:
    """Who can take part in the next generation, by replica: workers, and spares as workers.

    A spare is given the place of a worker that was lost or has to go, at once and for good: one
    that finds another agent there gets it back when that one is gone. Before the first generation
    nobody is lost, and the workers are waited for.
    """
    workers = [agent for agent in state.workers if agent.is_present]
    return sorted([*workers, *_promoted(state)], key=place_of)


def place_of(agent: Agent) -> int:
    """The place that it fills, for sorting; spares come last."""
    return agent.replica if agent.replica is not None else 1 << 30


def _promoted(state: Membership) -> list[Agent]:
    """Spares in places that are empty: those that had them before, then warm ones."""
    # An agent that has only lost its connection may still come back to its place.
    held = {agent.replica for agent in state.workers if not agent.leaving}
    empty = [replica for replica in range(state.policy.num_workers) if replica not in held]
    spares = sorted(
        (agent for agent in state.spares if agent.is_present),
        key=lambda agent: (not agent.is_warm, agent.name),
    )
    given: dict[int, Agent] = {}
    for agent in spares:
        if agent.claim in empty:
            given.setdefault(agent.claim, agent)
    if others_cannot_go_on(state):
        rest = (agent for agent in spares if agent not in given.values())
        given |= zip((replica for replica in empty if replica not in given), rest, strict=False)
    return [
        replace(agent, replica=replica, instead_of=_predecessor(state, replica))
        for replica, agent in given.items()
    ]


def _predecessor(state: Membership, replica: int) -> str | None:
    leaving = (agent.name for agent in state.workers if agent.replica == replica)
    return next(leaving, state.vacated.get(replica))


def promotion_note(agent: Agent, generation: Generation, now: float) -> Write:
    """The record of a spare that has become a worker."""
    instead = f" instead of {agent.instead_of}" if agent.instead_of is not None else ""
    text = f"The spare {agent.name} takes the place of worker {agent.replica}{instead}."
    return write(now, "SparePromoted", text, generation=generation)
