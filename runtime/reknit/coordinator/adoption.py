"""A new coordinator finds out where the job stands, and takes over what is intact.

Agents register one after the other. When they hold all ranks of the newest generation, it goes on
untouched. When they cannot, or time is up, it is ended unless it was already, and the next one
begins with the processes that have left it. Processes that wait without a generation just take
their places in the next one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from reknit.coordinator import ending, pace, progress, recovery, reports
from reknit.coordinator.events import Action, Outcome, Write
from reknit.coordinator.progress import Steps
from reknit.coordinator.records import sequence, write
from reknit.coordinator.state import Agent, Member, Membership, Previous, Running, newest
from reknit.protocol.agents import SlotReport
from reknit.protocol.base import Generation
from reknit.protocol.ranks import Phase, StepDone
from reknit.protocol.status import StepRecord


def settle(state: Membership, now: float) -> Outcome:
    """Takes the newest generation over, gives it up, or waits for more agents."""
    if state.gathering_until is None:
        return state, ()
    everybody = len(state.workers) == state.policy.num_workers
    complete = everybody or now >= state.gathering_until
    latest = newest(*(agent.latest for agent in state.agents.values()))
    if latest is None:
        return (replace(state, gathering_until=None), ()) if complete else (state, ())
    holders = [agent for agent in state.agents.values() if agent.latest == latest]
    world_size = max(agent.world_size or state.policy.world_size for agent in holders)
    members = {member.rank: member for agent in holders for member in _members(agent, latest)}
    missing = sorted(set(range(world_size)) - members.keys())
    if not missing and all(agent.running == latest for agent in holders):
        return _adopt(state, latest, tuple(members[rank] for rank in range(world_size)), now)
    if complete:
        num_agents = -(-world_size // state.policy.processes_per_worker)
        names = frozenset(agent.name for agent in holders)
        return _abandon(state, Previous(latest, num_agents, names), missing, now)
    return state, ()


def _members(agent: Agent, generation: Generation) -> list[Member]:
    return [
        _member(agent, slot, slot.rank)
        for slot in agent.slots
        if slot.generation == generation and slot.rank is not None
    ]


def _member(agent: Agent, slot: SlotReport, rank: int) -> Member:
    return Member(
        rank=rank,
        agent=agent.name,
        slot=slot.slot,
        phase=slot.phase or Phase.STARTING,
        step=slot.step,
        place=slot.place,
        pid=slot.pid,
        finished=slot.finished,
        left=slot.left,
        unsaved=slot.unsaved,
    )


def _adopt(
    state: Membership, generation: Generation, members: tuple[Member, ...], now: float
) -> Outcome:
    running = Running(id=generation, members=members, store=None)
    running = replace(running, confirmed=ending.set_of(running))
    held = {member.rank: member.step for member in members}
    steps, records = _recalled(state, generation, running.agents, held, now)
    state = replace(
        state,
        gathering_until=None,
        current=running,
        steps=steps,
        pace=pace.begun(state.pace, now),
    )
    note = write(
        now,
        "GenerationAdopted",
        f"Generation {generation} goes on under coordinator {state.incarnation}.",
        generation=generation,
        step=steps.committed,
    )
    actions: tuple[Action, ...] = (note, *map(Write, records))
    for agent in tuple(state.agents.values()):
        if agent.running != generation:
            reason = f"generation {generation} is newer"
            actions += ending.end_of(state, agent, reason, keep=False)
        for exited in agent.exits:
            state, more = reports.exited(state, agent, exited, now)
            actions += more
        state = state.with_agent(replace(state.agents[agent.name], exits=()))
        state, more = reports.catch_up(state, agent.name, now)
        actions += more
    return state, actions


def _recalled(
    state: Membership,
    generation: Generation,
    agents: Iterable[str],
    held: Mapping[int, int],
    now: float,
) -> tuple[Steps, tuple[StepRecord, ...]]:
    """The steps of the generation, and records of those that no coordinator may have told.

    Which ones an earlier coordinator has told is not known; whoever gathers the histories of
    several coordinators takes the first record of a step. `held` has the version by rank; what a
    rank has told counts more, for it announces a version before it tells of its step.
    """
    if not held:
        return state.steps, ()
    places = [state.agents[name] for name in agents]
    told = [
        (message.rank, message.message)
        for agent in places
        for message in agent.told
        if isinstance(message.message, StepDone) and message.message.generation == generation
    ]
    newest = {rank: done.step for rank, done in sorted(told, key=lambda said: said[1].step)}
    versions = [newest.get(rank, version) for rank, version in sorted(held.items())]
    starts = [
        slot.start
        for agent in places
        for slot in agent.slots
        if slot.generation == generation and slot.start is not None
    ]
    start = min([*starts, *(done.step - 1 for _, done in told)], default=min(versions))
    return progress.recall(state.steps, generation, start, versions, told, now)


def _abandon(state: Membership, previous: Previous, missing: list[int], now: float) -> Outcome:
    held = {
        slot.rank: slot.step
        for name in previous.agents
        for slot in state.agents[name].slots
        if slot.generation == previous.id and slot.rank is not None
    }
    steps, records = _recalled(state, previous.id, previous.agents, held, now)
    committed = max((s.step for a in state.agents.values() for s in a.slots), default=0)
    state = replace(
        state,
        gathering_until=None,
        previous=previous,
        waiting_since=now,
        steps=replace(steps, committed=committed),
        recoveries=recovery.start(state.recoveries, committed, now, None, now),
    )
    reason = f"{sequence(missing, 'rank')} of generation {previous.id} did not come back"
    notes: tuple[Action, ...] = ()
    if any(agent.running == previous.id for agent in state.agents.values()):
        # Else an earlier coordinator has ended it, and said why.
        text = reason[0].upper() + reason[1:] + "."
        notes = (write(now, "GenerationEnded", text, generation=previous.id),)
    actions = tuple(
        action
        for agent in state.agents.values()
        for action in ending.end_of(state, agent, reason, keep=True)
    )
    return state, (*map(Write, records), *notes, *actions)
