"""Parked processes: warm, without a place, and ready for the next one that falls empty."""

from dataclasses import replace
from typing import Final

from reknit.agent.events import Action, Ended, Kill, Launch, Log, Send
from reknit.agent.state import START_ALLOWANCE_SECONDS, AgentState, ParkedProcess
from reknit.protocol.ranks import FromRank, Parked
from reknit.protocol.servers import ServerEnded

MAX_FAILURES: Final = 3
"""Parked processes in a row that may end before they are warm; then no more are started."""


def park_when_possible(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """Starts the parked processes that are wanted and not there."""
    if state.parking_failures >= MAX_FAILURES or not state.is_ready:
        return state, []
    if state.identity.is_command or state.conclusion is not None:
        return state, []
    if state.is_leaving or state.is_draining:
        return state, []
    launches = range(state.next_launch, state.next_launch + _num_wanted(state) - len(state.parked))
    heard_at = now + START_ALLOWANCE_SECONDS
    new = tuple(ParkedProcess(launch=launch, heard_at=heard_at) for launch in launches)
    state = replace(
        state, parked=(*state.parked, *new), next_launch=state.next_launch + len(launches)
    )
    return state, [Launch(launch) for launch in launches]


def _num_wanted(state: AgentState) -> int:
    """One for each slot of a spare that waits, and for a parameter server.

    On a worker one, once the ranks here have made a step.

    Not before: while processes start and a step is redone, the import and the model of one more
    would take memory bandwidth and cores from them, and so prolong the recovery.
    """
    if state.begin is None:
        waits = state.identity.role != "worker" and not state.live
        return state.identity.num_slots if waits else 0
    return 1 if state.is_launched and _has_stepped(state) else 0


def _has_stepped(state: AgentState) -> bool:
    return state.generation is not None and any(
        slot.generation == state.generation and slot.start is not None for slot in state.slots
    )


def said(
    state: AgentState, parked: ParkedProcess, message: FromRank, now: float
) -> tuple[AgentState, list[Action]]:
    """A parked process gives a sign of life, or is warm now."""
    if parked.is_warm or not isinstance(message, Parked):
        # Before it is warm its beats do not shorten the time that it has for its imports.
        return state.with_parked(replace(parked, heard_at=max(parked.heard_at, now))), []
    parked = replace(parked, heard_at=now, is_warm=True)
    state = replace(state.with_parked(parked), parking_failures=0)
    return state, [Log("a parked process is warm")]


def ended(
    state: AgentState, parked: ParkedProcess, event: Ended
) -> tuple[AgentState, list[Action]]:
    """A parked process is gone: that is no fault of the job."""
    state = state.without_parked(parked.launch)
    told: list[Action] = [Send(ServerEnded(launch=parked.launch))] if state.is_server else []
    if state.is_leaving or state.conclusion is not None:
        return state, told
    if not parked.is_warm:
        state = replace(state, parking_failures=state.parking_failures + 1)
    how = f"signal {event.signal}" if event.signal is not None else f"status {event.exit_code}"
    return state, [*told, Log(f"a parked process has ended: {how}")]


def kill_parked(state: AgentState) -> tuple[AgentState, list[Action]]:
    """Ends the parked processes: no place will fall empty here any more."""
    kills: list[Action] = [Kill(parked.launch) for parked in state.parked if not parked.is_killed]
    parked = tuple(replace(parked, is_killed=True) for parked in state.parked)
    return replace(state, parked=parked), kills
