"""The end of a generation: everything of it must be gone before the next one begins."""

from dataclasses import replace

from reknit.coordinator import recovery
from reknit.coordinator.events import Action, Outcome, Send
from reknit.coordinator.state import Agent, Fault, Membership, Previous, Running
from reknit.protocol.agents import End


def end_of(state: Membership, agent: Agent, reason: str) -> tuple[Action, ...]:
    """Tells an agent to end whatever runs there.

    The message names this incarnation's last generation, which covers those of all earlier ones:
    agents obey no message that names a lower incarnation than they have promised.
    """
    if agent.connection is None or agent.running is None:
        return ()
    return (Send(agent.connection, End(generation=state.last_generation, reason=reason)),)


def end(state: Membership, running: Running, reason: str, now: float) -> Outcome:
    """The generation is over; agents that are not connected hear of it when they come back."""
    previous = Previous(id=running.id, num_agents=len(running.agents), agents=set_of(running))
    actions = tuple(
        action for agent in state.agents.values() for action in end_of(state, agent, reason)
    )
    return replace(state, current=None, previous=previous, waiting_since=now), actions


def set_of(running: Running) -> frozenset[str]:
    """Names of a generation's agents."""
    return frozenset(running.agents)


def end_for_recovery(state: Membership, running: Running, fault: Fault, now: float) -> Outcome:
    """The generation is over because of a fault; the clock of the recovery starts."""
    recoveries = recovery.start(
        state.recoveries, state.steps.committed, fault.detected, fault.silence, now
    )
    return end(replace(state, recoveries=recoveries), running, fault.sentence, now)
