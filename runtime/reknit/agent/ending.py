"""The end of processes, generations, the job and the agent itself."""

from dataclasses import replace
from typing import Final

from reknit.agent.events import Action, Ended, Exit, Kill, Log, Send, Tell, Terminate
from reknit.agent.exits import classify, describe
from reknit.agent.killing import kill, kill_overdue
from reknit.agent.state import AgentState, Slot, key
from reknit.protocol.agents import Conclude, Drain, Exited, FromSlot, Leaving, Refuse, Stopped
from reknit.protocol.base import Generation
from reknit.protocol.outcome import AGENT_EXIT_CODES, Conclusion, ExitClass
from reknit.protocol.ranks import Finished, Leave, Release

FAILED_EXIT_SECONDS: Final = 5.0
"""A rank that has reported its failure is killed when it has not exited by then."""
RELEASE_SECONDS: Final = 10.0
"""A released rank is killed when it has not exited by then."""
LEAVE_MARGIN_SECONDS: Final = 2.0
"""Before the grace period is over: for killing, the termination message and the exit."""


def ended(state: AgentState, event: Ended) -> tuple[AgentState, list[Action]]:
    """A process is gone: reports it unless that was this agent's doing or the regular end."""
    slot = state.slot_of(event.launch)
    if slot is None or slot.generation is None or slot.rank is None:
        return state, []
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


def end(state: AgentState, generation: Generation) -> tuple[AgentState, list[Action]]:
    """Ends every process of this generation and of older ones."""
    if generation.incarnation < state.promised:
        return state, [Log(f"the end of generation {generation} is stale")]
    state = replace(state, promised=generation.incarnation)
    if generation.key() < key(state.generation):
        return state, []
    state = replace(state, begin=None, ended=max(generation, state.ended or generation, key=key))
    if state.stopped is not None and key(state.stopped) >= generation.key() and not state.live:
        return state, [Send(Stopped(generation=state.stopped, store=state.store))]
    return kill(state, state.slots)


def drain(state: AgentState, message: Drain) -> tuple[AgentState, list[Action]]:
    """Tells the processes of this generation to leave at the next step boundary.

    The generation may be one that the coordinator has adopted, of a lower incarnation than its own.
    """
    if message.generation != state.generation:
        return state, []
    return _leave(state, message.reason)


def terminated(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """SIGTERM: the pod's processes leave, and the coordinator hears of it."""
    if state.is_leaving:
        return state, []
    grace = state.identity.grace_seconds
    state = replace(state, leave_deadline=now + grace - min(LEAVE_MARGIN_SECONDS, grace / 4))
    state, actions = _leave(state, "the pod is being terminated")
    return state, [Send(Leaving(grace_seconds=grace)), *actions]


def _leave(state: AgentState, reason: str) -> tuple[AgentState, list[Action]]:
    if state.is_draining:
        return state, []
    actions: list[Action] = []
    for slot in state.live:
        if slot.launch is None or slot.is_killed:
            continue
        if state.identity.is_command:
            actions.append(Terminate(slot.launch))
        else:
            actions.append(Tell(slot.launch, Leave(reason=reason)))
    return replace(state, is_draining=True), actions


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
    return state, actions + killed


def settle(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """What follows from the state and the time alone; called after every event."""
    state, actions = kill_overdue(state, now)
    if state.conclude_deadline is not None and now >= state.conclude_deadline:
        state, killed = kill(replace(state, conclude_deadline=None), state.live)
        actions += killed
    if state.leave_deadline is not None and now >= state.leave_deadline:
        return _give_up(state, actions)
    if state.live:
        if _has_left(state):
            state, killed = kill(state, state.live)
            actions += killed
        return state, actions
    if key(state.ended) > key(state.stopped) and state.ended is not None:
        state = replace(
            state,
            stopped=state.ended,
            slots=tuple(Slot(index=slot.index) for slot in state.slots)
            if state.begin is None
            else state.slots,
        )
        actions.append(Send(Stopped(generation=state.ended, store=state.store)))
    if state.conclusion is not None:
        return _exit(state, state.conclusion, actions)
    if state.is_leaving:
        return _exit(state, _preempted(state), actions)
    return state, actions


def _has_left(state: AgentState) -> bool:
    """Everything here is durable and nobody is there to say that the others are done, too."""
    return (
        state.is_leaving
        and not state.is_connected
        and all(slot.finished is not None for slot in state.live)
    )


def _give_up(state: AgentState, actions: list[Action]) -> tuple[AgentState, list[Action]]:
    """The pod's time is up: processes that still live are killed by this agent's own exit, too."""
    kills = [Kill(slot.launch) for slot in state.live if slot.launch is not None]
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
