"""Processes that leave their generation and live on: they keep its state for the next one."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from reknit.agent.events import Action, Log, Tell
from reknit.agent.killing import kill
from reknit.agent.state import AgentState, Slot
from reknit.protocol.ranks import Abort, Leave, Left

LEAVE_SECONDS: Final = 5.0
"""A rank that was told to abort is killed when it has not left by then, plus `LEAVE_STEPS`."""
TERMINATED: Final = "the pod is being terminated"
LEAVE_STEPS: Final = 3.0
"""Durations of a step: a rank that computes notices only when it next speaks to another one."""


def abort(
    state: AgentState, reason: str, now: float, failed: Collection[int] = ()
) -> tuple[AgentState, list[Action]]:
    """Tells processes to leave their generation; those of the ranks at fault are killed.

    One that has said why it failed is left to its own exit, which its deadline bounds.
    """
    faulty = [slot for slot in state.live if not slot.is_waiting and slot.rank in failed]
    state, actions = kill(state, faulty)
    deadline = now + LEAVE_SECONDS + LEAVE_STEPS * state.step_seconds
    for slot in state.live:
        if slot.is_waiting or slot.is_aborted or slot.is_killed or slot.error is not None:
            continue
        if slot.launch is None or slot.generation is None:
            continue
        actions.append(Tell(slot.launch, Abort(generation=slot.generation, reason=reason)))
        state = state.with_slot(replace(slot, is_aborted=True, deadline=deadline))
    return state, actions


def left(state: AgentState, slot: Slot, message: Left) -> tuple[AgentState, list[Action]]:
    """A process acts in its generation no more, and waits for its next place.

    It was told to abort, or all ranks have left together at a step boundary. In a pod that is about
    to go it is told to leave, as no other place will come for it, and it says what is lost; unless
    that is known to be nothing, or will be known in a moment.
    """
    if slot.launch is None or slot.is_killed:
        return state, []
    waiting = replace(slot, left=message.generation, is_aborted=False, finished=None)
    waiting = replace(waiting.without_place(), step=message.step)
    actions: list[Action] = [Log(f"rank {slot.rank} waits with the state of step {message.step}")]
    is_decided = slot.is_aborted or state.leave_at is None
    if state.is_leaving and is_decided and not state.is_dispensable:
        actions.append(Tell(slot.launch, Leave(reason=state.leave_reason or TERMINATED)))
    return state.with_slot(waiting), actions
