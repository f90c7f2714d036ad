"""Whose the place of a worker is when agents register."""

from dataclasses import replace
from typing import Final

from reknit.coordinator.events import Action, HangUp, Outcome, Send
from reknit.coordinator.policy import Policy
from reknit.coordinator.records import count, write
from reknit.coordinator.state import Agent, Membership, newest
from reknit.protocol.agents import Refuse, Register

MISCOMPUTED_LIMIT: Final = 2
"""Processes that compute wrong numbers before their agent's device is held to be broken."""


def is_warm(policy: Policy, num_warm: int) -> bool:
    """Whether an agent with so many warm processes could fill the places of a worker at once."""
    return policy.is_command or num_warm >= policy.processes_per_worker


def holder_of(state: Membership, replica: int | None, other_than: str) -> Agent | None:
    """Another agent in the place of this worker."""
    others = (agent for agent in state.workers if agent.name != other_than)
    return next((agent for agent in others if agent.replica == replica), None)


def place_of(state: Membership, message: Register) -> int | None:
    """The worker's place that a registering agent fills; a spare may have been given one."""
    if message.role == "worker":
        return message.replica
    known = state.agents.get(message.agent)
    if known is not None:
        return known.replica
    place = message.place
    if place is None or place >= state.policy.num_workers:
        return None
    # Who finds its place taken is a spare again.
    return None if holder_of(state, place, message.agent) else place


def displace(state: Membership, message: Register, now: float) -> Outcome:
    """Of two agents that come to a new coordinator for one place, the later to have had it stays.

    The other one was given up by an earlier coordinator, and has not heard of that.
    """
    place = message.replica if message.role == "worker" else message.place
    holder = holder_of(state, place, message.agent)
    latest = newest(message.latest, message.generation)
    if state.gathering_until is None or holder is None or latest is None:
        return state, ()
    if holder.latest is not None and holder.latest.key() >= latest.key():
        return state, ()
    note = write(now, "AgentLost", f"{holder.name} has lost its place to {message.agent}.")
    hang_up = () if holder.connection is None else (HangUp(holder.connection),)
    return state.without_agent(holder.name), (note, *hang_up)


def miscomputed(state: Membership, name: str, now: float) -> Outcome:
    """A process of this agent has ended because it computes wrong numbers.

    The agent's next process works on the same device. If that one is wrong too, the device is, and
    the agent is sent away, so that another pod takes its place.
    """
    agent = state.agents.get(name)
    if agent is None:
        return state, ()
    agent = replace(agent, num_miscomputed=agent.num_miscomputed + 1)
    if agent.num_miscomputed < MISCOMPUTED_LIMIT:
        return state.with_agent(agent), ()
    reason = f"{count(agent.num_miscomputed, 'process', 'processes')} computed wrong numbers there"
    actions: tuple[Action, ...] = (write(now, "AgentLost", f"{name} is sent away: {reason}."),)
    if agent.connection is not None:
        refusal = Send(agent.connection, Refuse(reason=reason, final=True))
        actions += (refusal, HangUp(agent.connection))
    return state.without_agent(name), actions
