"""What a backup does with what its primary says. Pure."""

from dataclasses import replace

from reknit.parameter_server.messages import Append, Position, Probe, Snapshot
from reknit.parameter_server.state import (
    Action,
    Install,
    Outcome,
    RangeState,
    Send,
    carry_out,
)
from reknit.parameter_server.table import advance


def append(state: RangeState, message: Append) -> Outcome:
    """Takes the next entry; one that is known is confirmed again, one too early is ignored.

    What was lost in between is sent again when the primary asks.
    """
    if not state.is_backup:
        return state, ()
    table = state.applied
    if message.after < table.index:
        return state, (_position(state),)
    if (message.after, message.after_term) != (table.index, table.term):
        return state, ()
    table, effect = advance(table, message.entry, message.term, state.mode)
    state = _check(replace(state, applied=table, ordered=table), message.required)
    actions: tuple[Action, ...] = (_position(state),)
    return state, actions + carry_out(effect)


def probed(state: RangeState, message: Probe) -> Outcome:
    """Says how far it is."""
    if not state.is_backup:
        return state, ()
    state = _check(state, message.required)
    return state, (_position(state, message.probe),)


def install(state: RangeState, message: Snapshot, tensors: object) -> Outcome:
    """Takes a whole copy, unless it has one and has gone on from it."""
    if not state.is_backup or state.complete:
        return state, ()
    if message.table.index <= state.applied.index:
        return state, (_position(state),)
    state = replace(state, applied=message.table, ordered=message.table)
    return state, (Install(message.table, tensors), _position(state))


def _check(state: RangeState, required: int | None) -> RangeState:
    reached = required is not None and state.applied.index >= required
    return replace(state, complete=True) if reached else state


def _position(state: RangeState, probe: int | None = None) -> Send:
    assert state.view is not None
    table = state.applied
    position = Position(state.number, table.index, table.term, state.complete, probe)
    return Send(state.view.primary, position)
