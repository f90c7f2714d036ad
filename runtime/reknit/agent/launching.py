"""The beginning of a generation: which processes are started here."""

from dataclasses import replace

from reknit.agent.events import Action, Launch, Log, Send
from reknit.agent.exits import describe
from reknit.agent.killing import kill
from reknit.agent.state import START_ALLOWANCE_SECONDS, AgentState, Slot, key
from reknit.protocol.agents import Begin, Exited, Place
from reknit.protocol.outcome import AGENT_EXIT_CODES, ErrorReport, ExitClass, ProcessExit
from reknit.protocol.ranks import Assign, Phase


def begin(state: AgentState, message: Begin) -> tuple[AgentState, list[Action]]:
    """Takes note of a newer generation and ends the processes of older ones."""
    newest = max(key(state.generation), key(state.ended))
    if message.generation.incarnation < state.promised or message.generation.key() <= newest:
        return state, [Log(f"generation {message.generation} is stale")]
    state, actions = kill(state, state.slots)
    state = replace(
        state,
        promised=message.generation.incarnation,
        begin=message,
        is_launched=False,
        is_draining=False,
        command_code=None,
        unsaved=None,
    )
    return state, actions


def launch_when_possible(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """Starts the processes of the newest generation once older ones are gone."""
    if state.begin is None or state.is_launched or state.live or state.conclusion is not None:
        return state, []
    if not state.is_ready:
        return _expect(state, state.begin, now), []
    message = state.begin
    state = replace(_expect(state, message, now), is_launched=True)
    places = [place for place in message.places if place.agent == state.identity.name]
    problem = _problem(state, message, places)
    actions: list[Action] = []
    for place in sorted(places, key=lambda place: place.slot):
        slot = state.slots[place.slot]
        if problem is not None:
            exited = Exited(
                generation=message.generation, slot=place.slot, rank=place.rank, exit=problem
            )
            state = state.with_slot(replace(slot, exited=exited))
            actions += [
                Log(f"rank {place.rank} is not started: {describe(problem)}"),
                Send(exited),
            ]
            continue
        actions.append(
            Launch(
                launch=state.next_launch,
                assign=assignment(message, place),
                hosts_store=place.rank == 0,
                hosts=hosts(message),
            )
        )
        slot = replace(
            slot,
            launch=state.next_launch,
            heard_at=now + _start_allowance(state.identity.is_command),
        )
        state = replace(state.with_slot(slot), next_launch=state.next_launch + 1)
    return state, actions


def assignment(message: Begin, place: Place) -> Assign:
    """A rank's place, with its pod's index by the pods' lowest ranks."""
    agents = list(dict.fromkeys(p.agent for p in sorted(message.places, key=lambda p: p.rank)))
    return Assign(
        generation=message.generation,
        rank=place.rank,
        world_size=message.world_size,
        local_rank=place.slot,
        local_world_size=sum(other.agent == place.agent for other in message.places),
        group_rank=agents.index(place.agent),
        store=message.store,
    )


def hosts(message: Begin) -> tuple[str, ...]:
    """Address of each rank's pod, in the order of the ranks."""
    return tuple(place.host for place in sorted(message.places, key=lambda place: place.rank))


def _expect(state: AgentState, message: Begin, now: float) -> AgentState:
    """Empty places that already carry their rank, for the heartbeats until processes exist."""
    ranks = {p.slot: p.rank for p in message.places if p.agent == state.identity.name}
    slots = tuple(
        Slot(
            index=slot.index,
            generation=message.generation if slot.index in ranks else None,
            rank=ranks.get(slot.index),
            phase=Phase.STARTING if slot.index in ranks else None,
            heard_at=now,
        )
        for slot in state.slots
    )
    return replace(state, slots=slots)


def _problem(state: AgentState, message: Begin, places: list[Place]) -> ProcessExit | None:
    """Why none of the processes can be started here."""
    if state.problem is not None:
        exit_class = state.problem.exit_class
        return ProcessExit(
            exit_class=exit_class, exit_code=AGENT_EXIT_CODES[exit_class], error=state.problem
        )
    if any(place.rank == 0 for place in places) and message.store != state.store:
        text = f"the store of generation {message.generation}, {message.store}, is no longer free"
        error = ErrorReport(exception=text, traceback=text, exit_class=ExitClass.INFRASTRUCTURE)
        return ProcessExit(exit_class=ExitClass.INFRASTRUCTURE, error=error)
    return None


def _start_allowance(is_command: bool) -> float:
    """Seconds before silence counts; a command never says anything."""
    return float("inf") if is_command else START_ALLOWANCE_SECONDS
