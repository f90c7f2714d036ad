"""The end of a generation: nothing acts in it any more before the next one begins."""

from dataclasses import replace

from reknit.coordinator import recovery
from reknit.coordinator.events import Action, Outcome, Send
from reknit.coordinator.state import Agent, Fault, Membership, Previous, Running
from reknit.protocol.agents import End


def end_of(
    state: Membership, agent: Agent, reason: str, *, keep: bool, failed: tuple[int, ...] = ()
) -> tuple[Action, ...]:
    """Tells an agent to end whatever runs there, or (`keep`) to let it leave and live on.

    A command keeps nothing, and is always ended. The message names this incarnation's last
    generation, which covers those of all earlier ones: agents obey no message that names a lower
    incarnation than they have promised.
    """
    if agent.connection is None or agent.running is None:
        return ()
    message = End(
        generation=state.last_generation,
        reason=reason,
        keep=keep and not state.policy.is_command,
        failed=failed,
    )
    return (Send(agent.connection, message),)


def dismiss(state: Membership, agent: Agent) -> tuple[Action, ...]:
    """Ends what lives on an agent that has no part in the generation that begins or runs.

    What processes there have kept of an older one is out of date with the next step.
    """
    if agent.connection is None or not (agent.running or any(s.pid for s in agent.slots)):
        return ()
    reason = "a generation without this worker has begun"
    return (Send(agent.connection, End(generation=state.last_generation, reason=reason)),)


def end(state: Membership, running: Running, reason: str, now: float, *, keep: bool) -> Outcome:
    """The generation is over; agents that are not connected hear of it when they come back."""
    previous = Previous(id=running.id, num_agents=len(running.agents), agents=set_of(running))
    actions: tuple[Action, ...] = ()
    for agent in state.agents.values():
        failed = tuple(m.rank for m in running.members if m.faulty and m.agent == agent.name)
        actions += end_of(
            state,
            agent,
            reason,
            keep=keep,
            failed=failed if agent.running == running.id else (),
        )
    return replace(state, current=None, previous=previous, waiting_since=now), actions


def set_of(running: Running) -> frozenset[str]:
    """Names of a generation's agents."""
    return frozenset(running.agents)


def end_for_recovery(state: Membership, running: Running, fault: Fault, now: float) -> Outcome:
    """The generation is over because of a fault; the clock of the recovery starts.

    Processes that are well leave it and keep its state; those of ranks at fault are killed.
    """
    recoveries = recovery.start(
        state.recoveries, state.steps.committed, fault.detected, fault.silence, now
    )
    state = replace(state, recoveries=recoveries)
    return end(state, running, fault.sentence, now, keep=True)
