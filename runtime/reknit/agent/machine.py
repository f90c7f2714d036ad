"""The agent's state machine: (state, event, time) -> (state, actions), pure.

The rules that hold whatever happens, and in whatever order:

- Processes act in the newest generation alone. Those of an older one have left it, or are gone,
  before the next one's places are given out.
- A message of a generation that is not newer than what was seen, or of a lower incarnation than
  was promised, changes nothing.
- Every end of a process of the newest generation that this agent did not cause is reported, and
  reported again to every later connection until a newer generation begins.
- A process that leaves its generation in time lives on, unless it is to be ended, and takes the
  same slot's place in the next one.
- The agent exits only when no process is left, or when the pod's time is up.
"""

from dataclasses import replace
from typing import TypeAlias

from reknit.agent import aborting, ending, launching, parking, serving
from reknit.agent.events import (
    Action,
    Connected,
    Disconnected,
    Ended,
    Event,
    HangUp,
    Log,
    Offered,
    Ready,
    Received,
    Said,
    Send,
    Started,
    Terminated,
    Tick,
)
from reknit.agent.killing import kill, kill_overdue
from reknit.agent.state import RECENT_STEPS, AgentState, ParkedProcess, Slot
from reknit.protocol.agents import (
    Begin,
    Conclude,
    Drain,
    End,
    FromSlot,
    Heartbeat,
    Leaving,
    Refuse,
    Welcome,
)
from reknit.protocol.ranks import (
    Beat,
    Failed,
    Finished,
    Left,
    Parked,
    PeerLost,
    Phase,
    StepDone,
)
from reknit.protocol.servers import Leases, Views

Outcome: TypeAlias = tuple[AgentState, list[Action]]


def handle(state: AgentState, event: Event, now: float) -> tuple[AgentState, tuple[Action, ...]]:
    """The state after `event` at time `now` (seconds, monotonic), and what is to be done."""
    if state.is_over:
        return state, ()
    state, actions = _react(state, event, now)
    state, more = ending.settle(state, now)
    if not state.is_over:
        state, launched = launching.launch_when_possible(state, now)
        state, parked = parking.park_when_possible(state, now)
        more += serving.informed(state, launched) + parked
    return state, tuple(actions + more)


def _react(state: AgentState, event: Event, now: float) -> Outcome:
    match event:
        case Connected():
            return replace(state, is_connected=True), _introduction(state, now)
        case Disconnected():
            return replace(state, is_connected=False), []
        case Received(message):
            match message:
                case Begin():
                    return launching.begin(state, message, now)
                case End():
                    return ending.end(state, message, now)
                case Drain():
                    return ending.drain(state, message)
                case Conclude():
                    return ending.conclude(state, message, now)
                case Views():
                    return serving.views(state, message)
                case Leases():
                    return state, serving.leases(state, message)
                case Welcome():
                    return _welcomed(state, message)
                case Refuse():
                    return ending.refused(state, message, now)
        case Ready(problem):
            return replace(state, is_ready=True, problem=problem), []
        case Offered(store):
            state = replace(state, store=store)
            return state, [Send(_heartbeat(state, now))]
        case Started(launch, pid):
            return _started(state, launch, pid), []
        case Said():
            return _said(state, event, now)
        case Ended():
            return ending.ended(state, event)
        case Terminated():
            return ending.terminated(state, now)
        case Tick(at_work):
            return _tick(state, at_work, now)


def _started(state: AgentState, launch: int, pid: int) -> AgentState:
    parked = state.parked_of(launch)
    if parked is not None:
        return state.with_parked(replace(parked, pid=pid))
    slot = state.slot_of(launch)
    return state.with_slot(replace(slot, pid=pid)) if slot else state


def _introduction(state: AgentState, now: float) -> list[Action]:
    """All that a coordinator, perhaps a new one, must know."""
    actions: list[Action] = [Send(state.register(now))]
    for slot in state.slots:
        if slot.finished is not None and slot.rank is not None:
            actions.append(Send(FromSlot(rank=slot.rank, message=slot.finished)))
        if slot.exited is not None:
            actions.append(Send(slot.exited))
    if state.stopped is not None and state.begin is None:
        actions.append(Send(ending.stopped(state, state.stopped)))
    if state.is_leaving:
        left = state.leave_deadline - now if state.leave_deadline is not None else 0.0
        actions.append(Send(Leaving(grace_seconds=round(max(0.0, left), 3))))
    return actions


def _welcomed(state: AgentState, message: Welcome) -> Outcome:
    if message.incarnation < state.promised:
        return state, [Log(f"incarnation {message.incarnation} is stale"), HangUp()]
    return replace(state, promised=message.incarnation), []


def _heartbeat(state: AgentState, now: float) -> Heartbeat:
    return Heartbeat(
        slots=state.reports(now), store=state.store, num_warm=state.num_warm, place=state.place
    )


def _tick(state: AgentState, at_work: frozenset[int], now: float) -> Outcome:
    """Heartbeat; time in which this agent was not scheduled is not held against its processes.

    A rank that works is alive even when its heartbeat thread cannot speak: an import or an
    extension may keep the interpreter to itself for seconds.
    """
    period = state.identity.heartbeat_seconds
    lag = now - state.last_tick - 2 * period if state.last_tick is not None else 0.0
    if lag > 0:
        state = replace(state, slots=tuple(_shifted(slot, lag, now) for slot in state.slots))
    slots = tuple(
        replace(slot, heard_at=max(slot.heard_at, now)) if slot.launch in at_work else slot
        for slot in state.slots
    )
    parked = tuple(_heard(process, at_work, max(0.0, lag), now) for process in state.parked)
    state = replace(state, slots=slots, parked=parked, last_tick=now)
    state, told = ending.leave_alone(state, now)
    state, killed = kill_overdue(state, now)
    return state, [*([Send(_heartbeat(state, now))] if state.is_connected else []), *told, *killed]


def _heard(
    process: ParkedProcess, at_work: frozenset[int], lag: float, now: float
) -> ParkedProcess:
    heard_at = now if process.launch in at_work else min(now, process.heard_at + lag)
    return replace(process, heard_at=max(process.heard_at, heard_at))


def _shifted(slot: Slot, seconds: float, now: float) -> Slot:
    return replace(
        slot,
        heard_at=max(slot.heard_at, min(now, slot.heard_at + seconds)),
        deadline=None if slot.deadline is None else slot.deadline + seconds,
    )


def _said(state: AgentState, event: Said, now: float) -> Outcome:
    """Keeps what a rank says of itself and passes it on; heartbeats go with the agent's own."""
    message = event.message
    parked = state.parked_of(event.launch)
    if parked is not None:
        state, actions = parking.said(state, parked, message, now)
        if not state.is_server:
            return state, actions
        state, told = serving.said(state, parked, message)
        return state, actions + told
    slot = state.slot_of(event.launch)
    if slot is not None and slot.is_waiting:
        return _said_while_waiting(state, slot, event, now)
    if slot is None or slot.rank is None:
        return state, []
    stale = getattr(message, "generation", slot.generation) != slot.generation
    if stale:
        return state, [Log(f"rank {slot.rank} spoke of another generation: {message.kind}")]
    slot = replace(slot, heard_at=now)
    more: list[Action] = []
    match message:
        case Beat(phase=phase, step=step, place=place):
            return state.with_slot(replace(slot, phase=phase, step=step, place=place)), []
        case Parked():
            # Its place came when this was already said.
            return state.with_slot(slot), []
        case Left():
            return aborting.left(state, slot, message)
        case PeerLost():
            slot = replace(slot, peer_lost=True)
        case StepDone():
            slot = slot.committed(message, RECENT_STEPS // len(state.slots))
            state = replace(state, step_seconds=message.seconds.get("total", state.step_seconds))
        case Finished(step=step, unsaved=unsaved):
            slot = replace(slot, phase=Phase.CLOSING, step=step, finished=message)
            if unsaved is not None:
                state = replace(state, unsaved=unsaved)
                more = [Log(f"rank {slot.rank} has left: {unsaved}")]
        case Failed(error=error):
            slot = replace(slot, error=error, deadline=now + ending.FAILED_EXIT_SECONDS)
        case _:
            pass
    return state.with_slot(slot), [Send(FromSlot(rank=slot.rank, message=message)), *more]


def _said_while_waiting(state: AgentState, slot: Slot, event: Said, now: float) -> Outcome:
    """A process without a place beats; told to leave, it says what is lost with it."""
    slot, message = replace(slot, heard_at=now), event.message
    actions: list[Action] = []
    match message:
        case Finished(generation=generation, unsaved=unsaved) if generation == slot.left:
            slot = replace(slot, step=message.step, finished=message)
            state = replace(state, unsaved=unsaved or state.unsaved)
            actions = [Log(f"the process in slot {slot.index} has left: {unsaved or 'all saved'}")]
            if not state.is_leaving:
                # It was told to leave before its generation ended, and would take no place now.
                state, killed = kill(state.with_slot(slot), [slot])
                return state, actions + killed
        case Failed(generation=generation, error=error) if generation == slot.left:
            slot = replace(slot, error=error, deadline=now + ending.FAILED_EXIT_SECONDS)
            actions = [Log(f"the process in slot {slot.index} has failed: {error.exception}")]
        case _:
            pass
    return state.with_slot(slot), actions
