"""Planned moves: ranks leave a generation together at a step boundary, and nothing is redone.

Either they write a checkpoint and end, or they keep their state and take part in the next
generation.
"""

from dataclasses import replace

from reknit.coordinator import ending
from reknit.coordinator.events import Action, Outcome, Send
from reknit.coordinator.records import write
from reknit.coordinator.state import Agent, Membership, Running
from reknit.protocol.agents import Drain


def drain(state: Membership, now: float) -> Outcome:
    """Lets the ranks leave when a pod of theirs is about to go.

    Whether the state survives without a checkpoint depends on who else must go, so this is waited
    for a little; pods that are told later may turn the decision.
    """
    running = state.current
    if running is None or running.faults:
        return state, ()
    leaving = tuple(agent.name for agent in _agents(state, running) if agent.leaving)
    if not leaving or set(leaving) <= set(running.leaving):
        return state, ()
    may_stay = _may_stay(state, running, leaving)
    if running.draining is None and may_stay and now < _decided_at(state, leaving):
        return state, ()
    return start(state, running, leaving, f"{', '.join(leaving)} must leave", now)


def start(
    state: Membership, running: Running, leaving: tuple[str, ...], reason: str, now: float
) -> Outcome:
    """Tells the ranks of the generation to stop at the next step boundary.

    Args:
        state: the membership.
        running: its current generation.
        leaving: the agents that will have no part in the next one, because their pods must go.
        reason: why, as a clause.
        now: the time.
    """
    stay = _may_stay(state, running, leaving) and (running.draining is None or running.staying)
    running = replace(running, draining=reason, staying=stay, leaving=leaving)
    actions: tuple[Action, ...] = tuple(
        action
        for agent in _agents(state, running)
        if agent.connection is not None
        for action in told(running, agent.connection)
    )
    note = write(
        now,
        "Draining",
        f"The ranks leave at the next step boundary: {reason}.",
        generation=running.id,
        step=state.steps.committed,
    )
    return replace(state, current=running), (note, *actions)


def told(running: Running, connection: int) -> tuple[Action, ...]:
    """What an agent must know of the end that its generation is coming to."""
    if running.draining is None:
        return ()
    message = Drain(
        generation=running.id,
        reason=running.draining,
        stay=running.staying,
        leaving=running.leaving,
    )
    return (Send(connection, message),)


def hurry(state: Membership, now: float) -> Outcome:
    """Ends the generation when a pod must go before its ranks come to a step boundary.

    They leave at once, keep their state all the same, and the step is redone.
    """
    running = state.current
    if running is None or running.faults or not running.staying:
        return state, ()
    late = [
        agent.name
        for agent in _agents(state, running)
        if agent.running is not None
        and agent.leaving_since is not None
        and now >= agent.leaving_since + agent.grace_seconds / 2
    ]
    if not late:
        return state, ()
    reason = f"{', '.join(late)} cannot wait for the end of the step"
    return _end(state, running, reason, state.steps.committed, now)


def settle(state: Membership, now: float) -> Outcome:
    """The generation is over when the ranks of all its agents have left it with their state."""
    running = state.current
    if running is None or running.faults:
        return state, ()
    agents = _agents(state, running)
    if not agents or any(agent.running is not None for agent in agents):
        return state, ()
    step = max(state.steps.committed, *(member.step for member in running.members))
    why = running.draining or "they were told to"
    reason = f"the ranks have left at step {step} with their state: {why}"
    return _end(state, running, reason, step, now)


def _end(state: Membership, running: Running, reason: str, step: int, now: float) -> Outcome:
    """Ends a generation whose processes live on."""
    state, actions = ending.end(state, running, reason, now, keep=True)
    text = f"{reason[0].upper()}{reason[1:]}."
    note = write(now, "GenerationEnded", text, generation=running.id, step=step)
    return state, (note, *actions)


def _agents(state: Membership, running: Running) -> list[Agent]:
    return [state.agents[name] for name in running.agents if name in state.agents]


def _may_stay(state: Membership, running: Running, leaving: tuple[str, ...]) -> bool:
    nodes = {agent.node for agent in _agents(state, running)}
    return state.policy.survives_without(
        len(leaving), num_agents=len(running.agents), num_nodes=len(nodes)
    )


def _decided_at(state: Membership, leaving: tuple[str, ...]) -> float:
    """A pod with little time is not kept waiting for others."""
    wait = state.policy.leave_wait.total_seconds()
    agents = [state.agents[name] for name in leaving]
    return min(
        agent.leaving_since + min(wait, agent.grace_seconds / 8)
        for agent in agents
        if agent.leaving_since is not None
    )
