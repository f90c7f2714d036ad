"""Parameter servers in the membership: which of them serve, for whom, and who is told."""

from dataclasses import replace
from typing import Final

from reknit.coordinator import fleet as fleets
from reknit.coordinator.events import Action, Outcome, Send
from reknit.coordinator.fleet import Change
from reknit.coordinator.records import write
from reknit.coordinator.state import Agent, Fault, Membership
from reknit.parameter_server.views import Member
from reknit.protocol.agents import End, Register
from reknit.protocol.outcome import ExitClass
from reknit.protocol.servers import FromServer, Leases, ServerEnded

SILENT_PERIODS: Final = 5
"""So many detection timeouts a backup may owe its primary an answer before it is replaced."""


def heard(state: Membership, agent: Agent, message: FromServer, now: float) -> Outcome:
    """A server has spoken: it gets leases for the ranges that it serves."""
    if agent.connection is None or not state.policy.num_servers:
        return state, ()
    said = message.message
    fleet = state.fleet.heard(agent.name, message.launch, said)
    served = {
        number: view.number for number, view in enumerate(fleet.views) if view.primary == said.name
    }
    seconds = state.policy.dead_after.total_seconds()
    fleet = fleet.leased(served.keys(), now + seconds)
    leases = Leases(name=said.name, asked_at=said.asked_at, seconds=seconds, ranges=served)
    actions: tuple[Action, ...] = (Send(agent.connection, leases),) if served else ()
    return replace(state, fleet=fleet), actions


def ended(state: Membership, agent: Agent, message: ServerEnded) -> Membership:
    """A server's process is gone."""
    return replace(state, fleet=state.fleet.ended_at(agent.name, message.launch))


def learn(state: Membership, message: Register, now: float) -> Membership:
    """What an agent was told by an earlier coordinator, whose leases may still run."""
    if message.views is None or len(message.views.servers) != state.policy.num_servers:
        return state
    until = now + state.policy.dead_after.total_seconds()
    return replace(state, fleet=state.fleet.learned(message.views, until))


def are_ready(state: Membership) -> bool:
    """Whether every range has a primary that lives, so that ranks can begin."""
    fleet = state.fleet
    if not state.policy.num_servers:
        return True
    return bool(fleet.views) and all(view.primary in fleet.processes for view in fleet.views)


def settle(state: Membership, now: float) -> Outcome:
    """Founds the ranges, replaces servers that were lost, and tells everyone."""
    if not state.policy.num_servers or state.gathering_until is not None:
        return state, ()
    fleet = state.fleet
    lost = [p for p in fleet.processes.values() if p.agent not in state.agents]
    for process in lost:
        fleet = fleet.without([process.name], certain=process.agent in state.gone)
    state = replace(state, fleet=fleet)
    if not fleet.views:
        return _found(state, now)
    state, actions = _succeed(state, now)
    state, protected = _protect(state, now)
    actions += protected
    state = _seat(state)
    state, told = _tell(state)
    state, released = _release(state)
    return state, (*actions, *told, *released)


def _found(state: Membership, now: float) -> Outcome:
    names = {p.agent: p.name for p in state.fleet.processes.values()}
    by_index = {a.index: names[a.name] for a in state.servers if a.name in names}
    order = [by_index[index] for index in sorted(by_index)]
    if len(order) < state.policy.num_servers:
        return state, ()
    fleet = fleets.found(state.fleet, order, state.policy.range_copies)
    text = f"The parameters are divided among {', '.join(order)}."
    return replace(state, fleet=fleet), (write(now, "ServersReady", text),)


def _succeed(state: Membership, now: float) -> Outcome:
    policy, fleet = state.policy, state.fleet
    ready = [p.name for p in fleet.processes.values() if not state.agents[p.agent].leaving]
    held = {name for view in fleet.views for name in (view.primary, view.backup) if name}
    # One that leaves keeps what it holds until others have it, and gets nothing more.
    alive = set(fleet.processes)
    if now < state.started + policy.adoption_wait.total_seconds():
        # An earlier coordinator's servers, which this one has not heard of yet.
        alive |= held - fleet.ended - fleet.seen
    limit = SILENT_PERIODS * policy.dead_after.total_seconds()
    fleet, changes = fleets.next_views(
        fleet, alive, ready, policy.range_copies, silent_limit=limit, now=now
    )
    state = replace(state, fleet=fleet)
    actions: tuple[Action, ...] = ()
    for change in changes:
        state, more = _note(state, change, now)
        actions += more
    return state, actions


def _protect(state: Membership, now: float) -> Outcome:
    """Tells when the loss of any one server loses nothing."""
    fleet = state.fleet
    protected = all(fleets.is_protected(fleet, number) for number in range(len(fleet.views)))
    if protected == fleet.is_protected:
        return state, ()
    state = replace(state, fleet=replace(fleet, is_protected=protected))
    text = "Every range of parameters has two complete copies."
    return state, (write(now, "RangesProtected", text),) if protected else ()


def _note(state: Membership, change: Change, now: float) -> Outcome:
    sentence = change.sentence
    kind = "RangeLost" if change.view.founds else "ServerChanged"
    running = state.current
    text = sentence[0].upper() + sentence[1:] + "."
    note = write(now, kind, text, generation=running.id if running else None)
    if running is not None and change.view.founds:
        # The ranks have to begin anew from the newest checkpoint.
        fault = Fault(now, ExitClass.INFRASTRUCTURE, sentence, from_process=False)
        state = replace(state, current=running.with_fault(fault))
    return state, (note,)


def _seat(state: Membership) -> Membership:
    """The ranks of a generation are the workers of every range."""
    running, fleet = state.current, state.fleet
    if running is None or running.id.order <= fleet.roster:
        return state
    members = tuple(Member(member.rank, running.id.order) for member in running.members)
    return replace(state, fleet=fleet.seated(members, running.id.order))


def _tell(state: Membership) -> Outcome:
    views = state.fleet.published(state.incarnation)
    told = dict(state.fleet.told)
    actions: list[Action] = []
    for agent in state.agents.values():
        if agent.connection is not None and told.get(agent.name) != (agent.connection, views):
            told[agent.name] = (agent.connection, views)
            actions.append(Send(agent.connection, views))
    if not actions:
        return state, ()
    return replace(state, fleet=replace(state.fleet, told=told)), tuple(actions)


def _release(state: Membership) -> Outcome:
    """Lets servers go whose pods must, once nobody needs what they hold."""
    fleet = state.fleet
    actions: list[Action] = []
    leaving = {agent.name for agent in state.servers if agent.leaving}
    for name in leaving:
        agent = state.agents[name]
        own = {process.name for process in fleet.processes.values() if process.agent == name}
        if agent.connection is None or not own:
            continue
        if state.current is not None and any(
            _needs(state, n, own, leaving) for n in range(len(fleet.views))
        ):
            continue
        reason = "others hold what this server holds"
        end = End(generation=state.last_generation, reason=reason)
        actions.append(Send(agent.connection, end))
    return state, tuple(actions)


def _needs(state: Membership, number: int, own: set[str], leaving: set[str]) -> bool:
    """Whether a range has no complete copy but these, or those of others that leave."""
    fleet = state.fleet
    view = fleet.views[number]
    if not own & {view.primary, view.backup}:
        return False
    others = fleets.complete(fleet, number) - own
    return not any(
        fleet.processes[name].agent not in leaving
        for name in others
        if name in (view.primary, view.backup)
    )
