"""Ending processes that this agent has started."""

from collections.abc import Iterable
from dataclasses import replace

from reknit.agent.events import Action, Kill, Log
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
    """Kills ranks that have not exited, or not left their generation, in time.

    And processes without a place that give no sign of life, as no rank's silence tells of them:
    one that was stopped would take a place and never fill it.
    """
    limit = state.identity.dead_after_seconds
    actions: list[Action] = []
    for slot in state.live:
        if slot.launch is None:
            continue
        overdue = slot.deadline is not None and now >= slot.deadline
        silent = (slot.is_aborted or slot.is_waiting) and now - slot.heard_at > limit
        if overdue or (silent and not slot.is_killed and slot.error is None):
            why = "has not ended in time" if overdue else "is silent"
            actions += [Log(f"the process in slot {slot.index} {why}"), Kill(slot.launch)]
            state = state.with_slot(replace(slot, is_killed=True, deadline=None))
    for parked in state.parked:
        if not parked.is_killed and now - parked.heard_at > limit:
            actions += [Log("a parked process is silent"), Kill(parked.launch)]
            state = state.with_parked(replace(parked, is_killed=True))
    return state, actions
