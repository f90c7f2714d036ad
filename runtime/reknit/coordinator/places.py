"""Whose the place of a worker is when agents register."""

from reknit.coordinator.events import HangUp, Outcome
from reknit.coordinator.policy import Policy
from reknit.coordinator.records import write
from reknit.coordinator.state import Agent, Membership
from reknit.protocol.agents import Register


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
    if message.role == "server":
        return None
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
    if message.role == "server":
        return state, ()
    place = message.replica if message.role == "worker" else message.place
    holder = holder_of(state, place, message.agent)
    if state.gathering_until is None or holder is None or message.generation is None:
        return state, ()
    if holder.running is not None and holder.running.key() >= message.generation.key():
        return state, ()
    note = write(now, "AgentLost", f"{holder.name} has lost its place to {message.agent}.")
    hang_up = () if holder.connection is None else (HangUp(holder.connection),)
    return state.without_agent(holder.name), (note, *hang_up)
