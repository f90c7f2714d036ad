"""Agents that come and go."""

from dataclasses import replace

from reknit.coordinator import draining, ending, forming, pace, places, reports
from reknit.coordinator.events import Action, HangUp, Outcome, Send, StepDown
from reknit.coordinator.records import write
from reknit.coordinator.state import Agent, Fault, Membership, Running, newest
from reknit.protocol.agents import Conclude, Refuse, Register, Stopped, Welcome
from reknit.protocol.base import PROTOCOL_VERSION, Generation
from reknit.protocol.outcome import ExitClass


def register(state: Membership, connection: int, message: Register, now: float) -> Outcome:
    """Takes an agent in, or refuses it; tells it what it may have missed."""
    if message.promised > state.incarnation:
        reason = f"coordinator {state.incarnation} has been replaced by {message.promised}"
        refusal = Send(connection, Refuse(reason=reason, final=False))
        state = replace(state, superseded_by=message.promised)
        return state, (refusal, HangUp(connection), StepDown(message.promised))
    known = state.agents.get(message.agent)
    state, actions = places.displace(state, message, now)
    refused = _refusal(state, message)
    if refused is not None:
        return state, (*actions, Send(connection, refused), HangUp(connection))
    if known is None:
        text = f"{message.agent} has joined from {message.node or message.host}."
        actions += (write(now, "AgentJoined", text),)
    elif known.connection is not None and known.connection != connection:
        actions += (HangUp(known.connection),)
    agent = Agent(
        name=message.agent,
        replica=places.place_of(state, message),
        host=message.host,
        node=message.node,
        store=message.store,
        heard=now,
        joined=known.joined if known else now,
        connection=connection,
        running=message.generation,
        latest=newest(message.latest, message.generation),
        world_size=message.world_size,
        slots=message.slots,
        leaving_since=known.leaving_since if known else None,
        grace_seconds=known.grace_seconds if known else 0.0,
        used_store=known.used_store if known else None,
        exits=known.exits if known else (),
        told=(*(known.told if known else ()), *message.recent),
        is_spare=message.role == "spare",
        claim=message.place,
        is_warm=places.is_warm(state.policy, message.num_warm),
        num_miscomputed=known.num_miscomputed if known else 0,
        instead_of=known.instead_of if known else None,
    )
    state = replace(
        state.with_agent(agent),
        departed=state.departed - {agent.name},
        gone=state.gone - {agent.name},
    )
    welcome = Send(connection, Welcome(incarnation=state.incarnation))
    state, more = _catch_up(state, agent, connection, now)
    return state, (*actions, welcome, *more)


def _refusal(state: Membership, message: Register) -> Refuse | None:
    policy = state.policy
    if message.version not in (PROTOCOL_VERSION, PROTOCOL_VERSION - 1):
        text = f"protocol version {message.version} is not understood here"
        return Refuse(reason=text, final=True)
    number = policy.num_workers if message.role == "worker" else policy.num_spares
    if not 0 <= message.replica < number:
        text = f"the job has no {message.role} {message.replica}, only {number} of them"
        return Refuse(reason=text, final=True)
    if message.num_slots != policy.processes_per_worker:
        expected = policy.processes_per_worker
        text = f"a {message.role} must have {expected} places, not {message.num_slots}"
        return Refuse(reason=text, final=True)
    if message.role == "spare":
        return None
    holder = places.holder_of(state, message.replica, message.agent)
    if holder is not None and state.conclusion is None:
        # After the end, whoever comes is told of it. Until then, one that was given up and comes
        # back finds its place taken, and a replacement that comes early waits until its
        # predecessor is given up.
        text = f"worker {message.replica} is {holder.name}"
        return Refuse(reason=text, final=message.agent in state.departed)
    return None


def _catch_up(state: Membership, agent: Agent, connection: int, now: float) -> Outcome:
    """What an agent must know that comes to a generation under way, or to its end."""
    if state.conclusion is not None:
        told = Conclude(incarnation=state.incarnation, conclusion=state.conclusion)
        return state, (Send(connection, told),)
    if state.gathering_until is not None:
        return state, ()
    running = state.current
    if running is None:
        return state, ending.end_of(state, agent, "the generation is over", keep=True)
    if agent.name not in running.agents:
        return state, ending.dismiss(state, agent)
    if agent.running == running.id:
        state, actions = reports.slots(state, agent, agent.slots, now)
        state, more = reports.catch_up(state, agent.name, now)
        actions += more
        return state, (*actions, *draining.told(running, connection))
    if agent.name in running.confirmed:
        if running.staying and agent.running is None:
            # Its ranks have left with their state, and it was not heard when it said so.
            return state, ()
        return _without_processes(state, running, agent.name, now)
    state = state.with_agent(replace(agent, running=running.id))
    begin = Send(connection, forming.begin_message(state, running))
    return state, (begin, *draining.told(running, connection))


def stopped(state: Membership, agent: Agent, message: Stopped, now: float) -> Outcome:
    """No process acts in that generation or an older one on the agent."""
    agent = replace(agent, store=message.store)
    if agent.running is None or agent.running.key() > message.generation.key():
        return state.with_agent(agent), ()
    state = state.with_agent(replace(agent, running=None, exits=()))
    running = state.current
    if running is None or agent.name not in running.agents:
        return state, ()
    if message.moved and message.generation == running.id:
        return state, ()
    return _without_processes(state, running, agent.name, now)


def _without_processes(state: Membership, running: Running, name: str, now: float) -> Outcome:
    """An agent has nothing left of a generation that nobody has ended."""
    sentence = f"{name} has lost its processes"
    fault = Fault(now, ExitClass.INFRASTRUCTURE, sentence, from_process=False)
    note = write(now, "AgentLost", sentence + ".", generation=running.id)
    return replace(state, current=running.with_fault(fault)), (note,)


def leaving(state: Membership, agent: Agent, grace_seconds: float, now: float) -> Outcome:
    """The agent's pod was told to go."""
    if agent.leaving:
        return state, ()
    text = f"{agent.name} must leave within {grace_seconds:g} s."
    agent = replace(agent, leaving_since=now, grace_seconds=grace_seconds)
    return state.with_agent(agent), (write(now, "Draining", text),)


def disconnected(state: Membership, connection: int) -> Membership:
    """A connection is closed; its agent has until the detection timeout to come back."""
    agent = state.agent_of(connection)
    return state if agent is None else state.with_agent(replace(agent, connection=None))


def expire(state: Membership, now: float) -> Outcome:
    """Gives up agents that were not heard for too long, and those that left as announced."""
    limit = state.policy.dead_after.total_seconds()
    actions: tuple[Action, ...] = ()
    for agent in tuple(state.agents.values()):
        if agent.leaving and agent.connection is None and agent.running is None:
            state = state.without_agent(agent.name)
            state = replace(state, gone=state.gone | {agent.name})
            actions += (write(now, "AgentLeft", f"{agent.name} has left."),)
        elif now - agent.heard > limit:
            silence = f"has been silent for {now - agent.heard:.1f} s"
            state, more = _lose(state, agent, silence, now)
            actions += more
    return state, actions


def _lose(state: Membership, agent: Agent, why: str, now: float) -> Outcome:
    state = state.without_agent(agent.name)
    running = state.current
    sentence = f"{agent.name} on {agent.node} {why}"
    generation: Generation | None = running.id if running else None
    actions: tuple[Action, ...] = (write(now, "AgentLost", sentence + ".", generation=generation),)
    if agent.connection is not None:
        actions += (HangUp(agent.connection),)
    own = [member for member in running.members if member.agent == agent.name] if running else []
    has_moved = agent.running is None
    if running is not None and not has_moved and not all(member.left for member in own):
        fault = Fault(
            now,
            ExitClass.INFRASTRUCTURE,
            sentence,
            from_process=False,
            silence=now - agent.heard,
        )
        state = replace(state, current=running.with_fault(fault))
    return state, actions


def confirmed_gone(state: Membership, name: str, now: float) -> Outcome:
    """The operator knows that the pod is gone: there is nothing to wait for."""
    agent = state.agents.get(name)
    if state.conclusion is not None:
        return state, ()
    if agent is not None and agent.connection is not None:
        # Another pod has taken the name meanwhile.
        return state, ()
    state = replace(state, gone=state.gone | {name})
    if agent is None:
        return state, ()
    return _lose(state, agent, "is gone", now)


def excuse(state: Membership, seconds: float, now: float) -> Membership:
    """Time in which this coordinator did not listen is not held against agents and ranks."""
    state = replace(state, pace=pace.excused(state.pace, seconds, now))
    for agent in tuple(state.agents.values()):
        state = state.with_agent(replace(agent, heard=min(now, agent.heard + seconds)))
    return state
