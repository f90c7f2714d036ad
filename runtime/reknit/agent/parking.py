"""The parked process: warm, without a place, and ready for the next one that falls empty."""

from dataclasses import replace
from typing import Final

from reknit.agent.events import Action, Ended, Kill, Launch, Log
from reknit.agent.state import START_ALLOWANCE_SECONDS, AgentState, ParkedProcess
from reknit.protocol.ranks import FromRank, Parked

MAX_FAILURES: Final = 3
"""Parked processes in a row that may end before they are warm; then no more are started."""


def park_when_possible(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """Starts a parked process once the ranks here have made a step in their generation.

    Not before: while processes start and a step is redone, the import and the model of one more
    would take memory bandwidth and cores from them, and so prolong the recovery.
    """
    if state.parked is not None or state.parking_failures >= MAX_FAILURES or not state.is_ready:
        return state, []
    if state.identity.is_command or not state.is_launched or state.conclusion is not None:
        return state, []
    if state.is_leaving or state.is_draining or not _has_stepped(state):
        return state, []
    launch = state.next_launch
    parked = ParkedProcess(launch=launch, heard_at=now + START_ALLOWANCE_SECONDS)
    return replace(state, parked=parked, next_launch=launch + 1), [Launch(launch)]


def _has_stepped(state: AgentState) -> bool:
    return state.generation is not None and any(
        slot.generation == state.generation and slot.start is not None for slot in state.slots
    )


def said(
    state: AgentState, parked: ParkedProcess, message: FromRank, now: float
) -> tuple[AgentState, list[Action]]:
    """The parked process gives a sign of life, or is warm now."""
    if parked.is_warm or not isinstance(message, Parked):
        # Before it is warm its beats do not shorten the time that it has for its imports.
        return replace(state, parked=replace(parked, heard_at=max(parked.heard_at, now))), []
    parked = replace(parked, heard_at=now, is_warm=True)
    return replace(state, parked=parked, parking_failures=0), [Log("a parked process is warm")]


def ended(
    state: AgentState, parked: ParkedProcess, event: Ended
) -> tuple[AgentState, list[Action]]:
    """The parked process is gone: that is no fault of the job."""
    state = replace(state, parked=None)
    if state.is_leaving or state.conclusion is not None:
        return state, []
    if not parked.is_warm:
        state = replace(state, parking_failures=state.parking_failures + 1)
    how = f"signal {event.signal}" if event.signal is not None else f"status {event.exit_code}"
    return state, [Log(f"the parked process has ended: {how}")]


def kill_parked(state: AgentState) -> tuple[AgentState, list[Action]]:
    """Ends the parked process: no place will fall empty here any more."""
    parked = state.parked
    if parked is None or parked.is_killed:
        return state, []
    return replace(state, parked=replace(parked, is_killed=True)), [Kill(parked.launch)]
