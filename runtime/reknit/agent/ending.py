"""The end of processes, generations, the job and the agent itself."""

from dataclasses import replace
from typing import Final

from reknit.agent import parking, serving
from reknit.agent.aborting import TERMINATED, abort
from reknit.agent.events import Action, Ended, Exit, Kill, Log, Send, Tell, Terminate
from reknit.agent.exits import classify, describe
from reknit.agent.killing import kill
from reknit.agent.state import AgentState, Slot, key
from reknit.protocol.agents import Conclude, Drain, End, Exited, FromSlot, Leaving, Refuse, Stopped
from reknit.protocol.base import Generation
from reknit.protocol.outcome import AGENT_EXIT_CODES, Conclusion, ExitClass
from reknit.protocol.ranks import Finished, Leave, Release

FAILED_EXIT_SECONDS: Final = 5.0
"""A rank that has reported its failure is killed when it has not exited by then."""
RELEASE_SECONDS: Final = 10.0
"""A released rank is killed when it has not exited by then."""
LEAVE_WAIT_SECONDS: Final = 3.0
"""How long a pod that must go waits to be told how its ranks leave."""
LEAVE_MARGIN_SECONDS: Final = 2.0
"""Before the grace period is over: for killing, the termination message and the exit."""


def ended(state: AgentState, event: Ended) -> tuple[AgentState, list[Action]]:
    """A process is gone: reports it unless that was this agent's doing or the regular end.

    One that had left its generation and waited had no place that could miss it.
    """
    parked = state.parked_of(event.launch)
    if parked is not None:
        return parking.ended(state, parked, event)
    slot = state.slot_of(event.launch)
    if slot is None:
        return state, []
    if slot.is_waiting or slot.generation is None or slot.rank is None:
        place = Slot(
            index=slot.index,
            generation=slot.generation,
            rank=slot.rank,
            phase=slot.phase,
            heard_at=slot.heard_at,
            exited=slot.exited,
        )
        return state.with_slot(place), [Log(f"the process in slot {slot.index} has ended waiting")]
    exit_ = classify(
        exit_code=event.exit_code,
        signal=event.signal,
        error=slot.error,
        finished=slot.finished is not None,
        is_command=state.identity.is_command,
        out_of_memory=event.out_of_memory,
        leaving=state.is_leaving or state.is_draining,
    )
    slot = replace(slot, launch=None, pid=None, deadline=None)
    if state.identity.is_command and event.exit_code and state.command_code is None:
        state = replace(state, command_code=event.exit_code)
    if exit_ is None:
        return _regular_end(state, slot)
    if slot.is_killed and event.signal is not None and slot.error is None:
        return state.with_slot(slot), []
    exited = Exited(generation=slot.generation, slot=slot.index, rank=slot.rank, exit=exit_)
    state = state.with_slot(replace(slot, exited=exited))
    return state, [Log(f"rank {slot.rank}: {describe(exit_)}"), Send(exited)]


def _regular_end(state: AgentState, slot: Slot) -> tuple[AgentState, list[Action]]:
    """A rank has said that it has finished; for a command its exit status 0 says so."""
    if slot.finished is not None or slot.generation is None or slot.rank is None:
        return state.with_slot(slot), []
    left = state.is_leaving or state.is_draining
    finished = Finished(generation=slot.generation, step=0, left=left)
    state = state.with_slot(replace(slot, finished=finished))
    return state, [Send(FromSlot(rank=slot.rank, message=finished))]


def end(state: AgentState, message: End, now: float) -> tuple[AgentState, list[Action]]:
    """Ends this generation and older ones, and their processes unless they are to be kept."""
    generation = message.generation
    if generation.incarnation < state.promised:
        return state, [Log(f"the end of generation {generation} is stale")]
    state = replace(state, promised=generation.incarnation)
    if generation.key() < key(state.generation):
        return state, []
    state = replace(
        state,
        begin=None,
        ended=max(generation, state.ended or generation, key=key),
        leave_reason=None,
        is_staying=False,
        # After a fault others may need what is held here.
        is_dispensable=False,
        has_moved=state.has_moved and generation == state.stopped,
    )
    actions: list[Action] = []
    if state.stopped is not None and key(state.stopped) >= generation.key() and not state.is_busy:
        actions.append(Send(stopped(state, state.stopped)))
    if state.is_server:
        state, more = parking.kill_parked(state) if state.is_leaving else (state, [])
    elif message.keep:
        state, more = abort(state, message.reason, now, message.failed)
    else:
        state, more = kill(state, state.slots)
    return state, actions + more


def drain(state: AgentState, message: Drain) -> tuple[AgentState, list[Action]]:
    """Tells the processes of this generation to leave at the next step boundary.

    The generation may be one that the coordinator has adopted, of a lower incarnation than its own.
    """
    is_known = message.stay and state.is_leaving and state.identity.name in message.leaving
    if state.begin is None and state.has_moved and message.generation == state.stopped:
        # The ranks of other pods were told first, and those of this one have left with them.
        if is_known and state.leave_at is not None:
            state = replace(state, is_dispensable=True, leave_at=None)
        return state, []
    if message.generation != state.generation:
        return state, []
    # A pod that must go before it has given out its places gives out none.
    stay = message.stay and (state.is_launched or not state.is_leaving)
    state, actions = _leave(state, message.reason, stay=stay)
    is_dispensable = is_known and state.is_staying
    leave_at = None if is_dispensable else state.leave_at
    return replace(state, is_dispensable=is_dispensable, leave_at=leave_at), actions


def terminated(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """SIGTERM: the coordinator hears of it and says how the pod's ranks leave.

    Where nobody can say so, and where processes have no part in a generation, they leave at once.
    """
    if state.is_leaving:
        return state, []
    grace = state.identity.grace_seconds
    state = replace(state, leave_deadline=now + grace - min(LEAVE_MARGIN_SECONDS, grace / 4))
    actions: list[Action] = []
    if state.is_connected and state.is_launched and state.begin and not state.identity.is_command:
        state = replace(state, leave_at=now + min(LEAVE_WAIT_SECONDS, grace / 4))
    else:
        state, actions = _leave(state, TERMINATED, stay=False)
    killed: list[Action] = []
    if not (state.is_server and state.is_connected):
        state, killed = parking.kill_parked(state)
    # Else the coordinator says when nobody needs any more what the server holds.
    return state, [Send(Leaving(grace_seconds=grace)), *actions, *killed]


def leave_alone(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """Nobody has said in time how the ranks of a pod that must go leave: with a checkpoint."""
    if state.leave_at is None or now < state.leave_at:
        return state, []
    return _leave(state, TERMINATED, stay=False)


def _leave(state: AgentState, reason: str, *, stay: bool) -> tuple[AgentState, list[Action]]:
    """Tells processes to leave; whom `stay` was told to is told when it no longer holds."""
    if not stay:
        state = replace(state, leave_at=None)
    if state.is_draining and (stay or not state.is_staying):
        return state, []
    actions: list[Action] = []
    for slot in state.live:
        if slot.launch is None or slot.is_killed or slot.is_aborted:
            # Those that abort a generation are not in it any more; they hear of it once they wait.
            continue
        if slot.is_waiting and (stay or not state.is_leaving or slot.finished is not None):
            # It has left already; another place will come for it, or it was told before.
            continue
        if state.identity.is_command:
            actions.append(Terminate(slot.launch))
        else:
            actions.append(Tell(slot.launch, Leave(reason=reason, stay=stay)))
    return replace(state, leave_reason=reason, is_staying=stay), actions


def conclude(state: AgentState, message: Conclude, now: float) -> tuple[AgentState, list[Action]]:
    """The job is over: finished ranks are released, all others are killed."""
    if message.incarnation < state.promised or state.conclusion is not None:
        return state, []
    state = replace(state, promised=message.incarnation)
    return _finish(state, message.conclusion, now)


def refused(state: AgentState, message: Refuse, now: float) -> tuple[AgentState, list[Action]]:
    """The coordinator does not want this agent; a final refusal ends it."""
    log = Log(f"the coordinator refuses: {message.reason}")
    if not message.final or state.conclusion is not None:
        return state, [log]
    text = f"the coordinator refuses this pod: {message.reason}"
    conclusion = Conclusion(exit_class=ExitClass.INFRASTRUCTURE, message=text)
    state, actions = _finish(state, conclusion, now)
    return state, [log, *actions]


def _finish(
    state: AgentState, conclusion: Conclusion, now: float
) -> tuple[AgentState, list[Action]]:
    state = replace(
        state, conclusion=conclusion, begin=None, conclude_deadline=now + RELEASE_SECONDS
    )
    actions: list[Action] = [
        Tell(slot.launch, Release())
        for slot in state.live
        if slot.launch is not None and slot.finished is not None
    ]
    state, killed = kill(state, [slot for slot in state.live if slot.finished is None])
    state, parked = parking.kill_parked(state)
    return state, actions + killed + parked


def settle(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """What follows from the state and the time alone; called after every event."""
    actions: list[Action] = []
    if state.conclude_deadline is not None and now >= state.conclude_deadline:
        state, killed = kill(replace(state, conclude_deadline=None), state.live)
        actions += killed
    if state.leave_deadline is not None and now >= state.leave_deadline:
        return _give_up(state, actions)
    problem = serving.hopeless(state)
    if problem is not None and state.conclusion is None and not state.is_leaving:
        conclusion = Conclusion(
            exit_class=problem.exit_class, message=problem.exception, error=problem
        )
        state, finished = _finish(state, conclusion, now)
        actions += finished
    state = _move_on(state)
    over = state.ended
    if not state.is_busy and over is not None and over.key() > key(state.stopped):
        state = replace(state, stopped=over)
        if state.begin is None:
            state = replace(state, slots=tuple(slot.without_place() for slot in state.slots))
        actions.append(Send(stopped(state, over)))
    if state.live or state.parked:
        if state.live and _has_left(state):
            state, killed = kill(state, state.live)
            actions += killed
        return state, actions
    if state.conclusion is not None:
        return _exit(state, state.conclusion, actions)
    if state.is_leaving:
        return _exit(state, _preempted(state), actions)
    return state, actions


def stopped(state: AgentState, generation: Generation) -> Stopped:
    """What the coordinator is told when nothing here acts in the generation any more."""
    return Stopped(generation=generation, store=state.store, moved=state.has_moved)


def _move_on(state: AgentState) -> AgentState:
    """The generation is over here when all its processes have left it, though nobody ended it."""
    begin = state.begin
    if begin is None or not state.is_launched or any(slot.generation for slot in state.slots):
        return state
    if not any(place.agent == state.identity.name for place in begin.places):
        return state
    return replace(
        state,
        begin=None,
        ended=begin.generation,
        leave_reason=None,
        is_staying=False,
        has_moved=True,
    )


def _has_left(state: AgentState) -> bool:
    """Everything here is durable, or held by others, and nobody will say that they are done.

    Nobody is there to say it, or these processes have no part in what the others do.
    """
    if state.is_dispensable and state.begin is None:
        return all(slot.is_waiting for slot in state.live)
    return (
        state.is_leaving
        and all(slot.finished is not None for slot in state.live)
        and (not state.is_connected or all(slot.is_waiting for slot in state.live))
    )


def _give_up(state: AgentState, actions: list[Action]) -> tuple[AgentState, list[Action]]:
    """The pod's time is up: processes that still live are killed by this agent's own exit, too."""
    kills = [Kill(slot.launch) for slot in state.live if slot.launch is not None]
    kills += [Kill(parked.launch) for parked in state.parked]
    return _exit(state, state.conclusion or _preempted(state), [*actions, *kills])


def _preempted(state: AgentState) -> Conclusion:
    """The pod has left as it was asked to; what that has cost must be told all the same."""
    message = "the pod was terminated"
    if any(slot.finished is None for slot in state.live):
        message += " before its ranks had left"
    if state.unsaved is not None:
        message += f": {state.unsaved}"
    return Conclusion(exit_class=ExitClass.PREEMPTED, message=message, unsaved=state.unsaved)


def _exit(
    state: AgentState, conclusion: Conclusion, actions: list[Action]
) -> tuple[AgentState, list[Action]]:
    code = AGENT_EXIT_CODES[conclusion.exit_class]
    if conclusion.exit_class is ExitClass.PROGRAM_ERROR and state.command_code is not None:
        code = state.command_code
    return replace(state, is_over=True), [*actions, Exit(conclusion, code)]
