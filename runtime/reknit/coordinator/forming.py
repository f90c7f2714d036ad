"""Who makes up the next generation."""

from dataclasses import replace

from reknit.coordinator import draining, ending, pace, progress, recovery, servers, spares
from reknit.coordinator.events import Action, Outcome, Send
from reknit.coordinator.policy import Policy
from reknit.coordinator.quorum import others_cannot_go_on
from reknit.coordinator.records import count, write
from reknit.coordinator.state import Agent, Member, Membership, Running
from reknit.protocol.agents import Begin, Place
from reknit.protocol.base import Generation


def form(state: Membership, now: float) -> Outcome:
    """Begins a generation once no process acts in an older one and enough agents are there."""
    if state.current is not None or state.gathering_until is not None:
        return state, ()
    if any(agent.running is not None for agent in state.agents.values()):
        return state, ()
    state = replace(state, recoveries=recovery.enter(state.recoveries, recovery.REPLACE, now))
    if not servers.are_ready(state):
        return state, ()
    chosen = choose(state, now)
    if not chosen or not _is_fresh(state, chosen[0], now):
        return state, ()
    return _begin(state, chosen, now)


def choose(state: Membership, now: float) -> list[Agent]:
    """The agents of the next generation in the order of their ranks; none while it must wait.

    A smaller world than the full one needs the certainty that the others do not go on as well.
    """
    policy, previous = state.policy, state.previous
    candidates = spares.candidates(state)
    if len(candidates) == policy.num_workers:
        return candidates
    if not policy.may_shrink or previous is None:
        return []
    if now < state.waiting_since + policy.replacement_wait.total_seconds():
        return []
    if any(agent.connection is None and not agent.leaving for agent in state.workers):
        return []
    if not others_cannot_go_on(state):
        return []
    size = _largest_world(policy, len(candidates))
    known_first = sorted(candidates, key=lambda agent: agent.name not in previous.agents)
    return sorted(known_first[:size], key=spares.place_of)


def _largest_world(policy: Policy, num_workers: int) -> int:
    """The most workers that the layout allows; 0 if there are too few."""
    sizes = range(num_workers, policy.min_workers - 1, -1)
    return next((size for size in sizes if policy.fits(size)), 0)


def _is_fresh(state: Membership, host: Agent, now: float) -> bool:
    """Whether the host of rank 0 offers an endpoint that has not been used up.

    A new listener may get the same port again, so this is waited for only for a while.
    """
    patience = state.policy.verdict_wait.total_seconds()
    return host.store != host.used_store or now >= state.waiting_since + patience


def _begin(state: Membership, chosen: list[Agent], now: float) -> Outcome:
    counter = state.counter + 1
    generation = Generation(incarnation=state.incarnation, counter=counter)
    num_slots = state.policy.processes_per_worker
    members = tuple(
        Member(rank=index * num_slots + slot, agent=agent.name, slot=slot)
        for index, agent in enumerate(chosen)
        for slot in range(num_slots)
    )
    running = Running(id=generation, members=members, store=chosen[0].store)
    promoted = [agent for agent in chosen if state.agents[agent.name].replica is None]
    for agent in chosen:
        state = state.with_agent(replace(agent, running=generation, exits=(), told=()))
    host = state.agents[chosen[0].name]
    state = state.with_agent(replace(host, used_store=host.store))
    state = replace(
        state,
        counter=counter,
        current=running,
        steps=progress.begin(state.steps, [0] * len(members)),
        pace=pace.begun(state.pace, now),
        recoveries=recovery.begun(state.recoveries, now),
    )
    message = begin_message(state, running)
    sends: list[Action] = [Send(a.connection, message) for a in chosen if a.connection is not None]
    for agent in state.agents.values():
        if agent.name not in running.agents and not agent.leaving and not agent.is_server:
            sends += ending.dismiss(state, agent)
    note = write(
        now,
        "GenerationBegun",
        f"Generation {generation} begins with {count(len(members), 'rank')} on "
        f"{count(len(chosen), 'worker')}.",
        generation=generation,
        figures={"ranks": len(members), "workers": len(chosen)},
    )
    promotions = [spares.promotion_note(agent, generation, now) for agent in promoted]
    return state, (*promotions, note, *sends)


def begin_message(state: Membership, running: Running) -> Begin:
    """What the agents of a generation are told; it must be one of this incarnation's.

    Raises:
        ValueError: the generation was taken over, and its store is not known.
    """
    if running.store is None:
        raise ValueError(f"generation {running.id} was formed by another coordinator")
    places = tuple(_place(member, state.agents.get(member.agent)) for member in running.members)
    return Begin(generation=running.id, world_size=len(places), store=running.store, places=places)


def _place(member: Member, agent: Agent | None) -> Place:
    return Place(
        rank=member.rank,
        agent=member.agent,
        slot=member.slot,
        replica=agent.replica or 0 if agent else 0,
        host=agent.host if agent else "",
        node=agent.node if agent else "",
    )


def grow(state: Membership, now: float) -> Outcome:
    """Lets a smaller world leave at a step boundary when a larger one is possible."""
    running, policy = state.current, state.policy
    if running is None or running.draining is not None or running.faults:
        return state, ()
    if not policy.may_shrink or policy.is_command:
        return state, ()
    if any(member.finished for member in running.members) or not state.steps.marks:
        return state, ()
    extra = [
        agent
        for agent in spares.candidates(state)
        if agent.name not in running.agents and agent.running is None
    ]
    total = len(running.agents) + len(extra)
    if not extra or _largest_world(policy, total) <= len(running.agents):
        return state, ()
    settled = max(agent.joined for agent in extra) + policy.replacement_wait.total_seconds()
    if total < policy.num_workers and now < settled:
        return state, ()
    return draining.start(state, running, (), f"{count(len(extra), 'worker')} more can join", now)
