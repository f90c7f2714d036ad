"""Ending processes that this agent has started."""

from collections.abc import Iterable
from dataclasses import replace

from reknit.agent.events import Action, Kill
from reknit.agent.state import AgentState, Slot


def kill(state: AgentState, slots: Iterable[Slot]) -> tuple[AgentState, list[Action]]:
    """Kills the processes of these places that were not killed before.

    A rank that has just said why it failed is left to its own exit, which its deadline bounds: the
    error it reports decides what happens to the job.
    """
    actions: list[Action] = []
    for slot in slots:
        if slot.launch is not None and not slot.is_killed and slot.error is None:
            actions.append(Kill(slot.launch))
            state = state.with_slot(replace(slot, is_killed=True))
    return state, actions


def kill_overdue(state: AgentState, now: float) -> tuple[AgentState, list[Action]]:
    """Kills failed ranks that have not exited in time."""
    actions: list[Action] = []
    for slot in state.live:
        if slot.launch is not None and slot.deadline is not None and now >= slot.deadline:
            actions.append(Kill(slot.launch))
            state = state.with_slot(replace(slot, is_killed=True, deadline=None))
    return state, actions
