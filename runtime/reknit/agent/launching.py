"""The beginning of a generation: who gets its places here."""

from dataclasses import replace

from reknit.agent.aborting import abort
from reknit.agent.events import Action, Execute, GivePlace, Launch, Log, Send, Tell
from reknit.agent.exits import describe
from reknit.agent.killing import kill
from reknit.agent.state import START_ALLOWANCE_SECONDS, AgentState, Slot, key
from reknit.protocol.agents import Begin, Exited, Place
from reknit.protocol.outcome import AGENT_EXIT_CODES, ErrorReport, ExitClass, ProcessExit
from reknit.protocol.ranks import Assign, Leave, Phase


def begin(state: AgentState, message: Begin, now: float) -> tuple[AgentState, list[Action]]:
    """Takes note of a newer generation; if the end of the one before was missed, ends that."""
    newest = max(key(state.generation), key(state.ended))
    if message.generation.incarnation < state.promised or message.generation.key() <= newest:
        return state, [Log(f"generation {message.generation} is stale")]
    if state.identity.is_command:
        state, actions = kill(state, state.slots)
    else:
        state, actions = abort(state, f"generation {message.generation} begins", now)
    own = [place.replica for place in message.places if place.agent == state.identity.name]
    state = replace(
        state,
        promised=message.generation.incarnation,
        begin=message,
        latest=message.generation,
        latest_world_size=message.world_size,
        place=own[0] if own and state.identity.role == "spare" else state.place,
        is_launched=False,
        leave_reason=state.leave_reason if state.is_leaving else None,
        is_staying=False,
        is_dispensable=False,
        has_moved=False,
        command_code=None,
        unsaved=None,
    )
    return state, actions


def launch_when_possible(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """Gives out the places of the newest generation once nothing acts in an older one."""
    if state.begin is None or state.is_launched or state.is_busy:
        return state, []
    if state.conclusion is not None or state.is_leaving:
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
        state, more = _fill(state, slot, assignment(message, place), now)
        actions += more
    return state, actions


def _fill(
    state: AgentState, slot: Slot, assign: Assign, now: float
) -> tuple[AgentState, list[Action]]:
    """Gives a place to the process that waits in its slot, to a parked one, or to a new one."""
    hosts_store = assign.rank == 0
    if state.identity.is_command:
        launch = state.next_launch
        # A command never says anything.
        slot = replace(slot, launch=launch, heard_at=float("inf"))
        state = replace(state.with_slot(slot), next_launch=launch + 1)
        return state, [Execute(launch, assign, hosts_store)]
    actions: list[Action] = []
    waiting = sorted(state.parked, key=lambda parked: not parked.is_warm)
    parked = next((parked for parked in waiting if not parked.is_killed), None)
    if slot.launch is not None:
        launch = slot.launch
    elif parked is not None:
        launch = parked.launch
        slot = replace(slot, launch=launch, pid=parked.pid, heard_at=parked.heard_at)
        state = state.without_parked(launch)
    else:
        launch = state.next_launch
        slot = replace(slot, launch=launch, heard_at=now + START_ALLOWANCE_SECONDS)
        state = replace(state, next_launch=launch + 1)
        actions.append(Launch(launch))
    actions.append(GivePlace(launch, assign, hosts_store))
    if state.leave_reason is not None:
        # It was told to the agent while older processes were about to leave.
        actions.append(Tell(launch, Leave(reason=state.leave_reason, stay=state.is_staying)))
    return state.with_slot(replace(slot, left=None, finished=None)), actions


def assignment(message: Begin, place: Place) -> Assign:
    """A rank's place, with its pod's index by the pods' lowest ranks."""
    places = sorted(message.places, key=lambda place: place.rank)
    agents = list(dict.fromkeys(other.agent for other in places))
    return Assign(
        generation=message.generation,
        rank=place.rank,
        world_size=message.world_size,
        local_rank=place.slot,
        local_world_size=sum(other.agent == place.agent for other in places),
        group_rank=agents.index(place.agent),
        store=message.store,
        hosts=tuple(other.host for other in places),
        nodes=tuple(other.node for other in places),
    )


def _expect(state: AgentState, message: Begin, now: float) -> AgentState:
    """Places that carry their rank, for the heartbeats; processes without a place stay in them."""
    ranks = {p.slot: p.rank for p in message.places if p.agent == state.identity.name}
    slots = tuple(
        replace(
            slot.without_place(),
            generation=message.generation if slot.index in ranks else None,
            rank=ranks.get(slot.index),
            phase=Phase.STARTING if slot.index in ranks else None,
            heard_at=slot.heard_at if slot.is_live else now,
        )
        for slot in state.slots
    )
    return replace(state, slots=slots)


def _problem(state: AgentState, message: Begin, places: list[Place]) -> ProcessExit | None:
    """Why none of the places can be given out here."""
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
