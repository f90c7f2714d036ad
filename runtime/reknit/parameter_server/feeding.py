"""How a primary keeps its backup in step. Pure.

The transport loses what is under way when a connection breaks, and otherwise keeps the order. So an
answer to a question that went out after an entry says for certain whether that entry got lost.
"""

from dataclasses import replace

from reknit.parameter_server.messages import Append, Position, Probe, Snapshot
from reknit.parameter_server.state import (
    PROBE_SECONDS,
    Action,
    Feed,
    Logged,
    Outcome,
    RangeState,
    Send,
    Stage,
)
from reknit.parameter_server.table import Entry, advance


def order(state: RangeState, entry: Entry) -> Outcome:
    """Puts an entry at the end of the log, and sends it to a backup that follows."""
    before = state.ordered
    ordered, _ = advance(before, entry, state.number, state.mode)
    logged = Logged(state.number, entry)
    log = replace(state.log, entries=(*state.log.entries, logged))
    state = replace(state, ordered=ordered, log=log)
    if state.feed is None or state.feed.stage is not Stage.FOLLOWING:
        return state, ()
    return state, _appends(state, before.index)


def probe(state: RangeState, now: float) -> Outcome:
    """Asks a backup of which something is awaited, at first and then from time to time."""
    feed = state.feed
    if feed is None or state.view is None or state.view.backup is None or not state.complete:
        return state, ()
    settled = feed.complete and feed.acked == state.log.last
    if settled or now < feed.probed_at + PROBE_SECONDS:
        return state, ()
    if not feed.is_open:
        feed = replace(
            feed, probe=feed.probe + 1, covers=state.log.last, is_open=True, asked_at=now
        )
    feed = replace(feed, probed_at=now)
    message = Probe(state.number, feed.probe, feed.required)
    return replace(state, feed=feed), (Send(state.view.backup, message),)


def heard(state: RangeState, message: Position) -> Outcome:
    """Draws conclusions from how far the backup is."""
    feed = state.feed
    if feed is None:
        return state, ()
    holds = state.log.term_at(message.index) == message.term
    answers = message.probe is not None and message.probe == feed.probe and feed.is_open
    if answers:
        feed = replace(feed, is_open=False)
    if feed.stage is Stage.FOLLOWING:
        return _follows(state, feed, message, is_answer=answers)
    if holds and (feed.stage is Stage.COPYING or answers):
        return _caught_up(state, feed, message)
    if answers:
        return _copy(state, feed, message)
    return replace(state, feed=feed), ()


def _follows(state: RangeState, feed: Feed, message: Position, *, is_answer: bool) -> Outcome:
    feed = replace(
        feed,
        acked=max(feed.acked, message.index),
        complete=feed.complete or message.complete,
    )
    state = replace(state, feed=feed)
    if is_answer and message.index < feed.covers and message.index >= feed.acked:
        return state, _appends(state, message.index)
    return state, ()


def _caught_up(state: RangeState, feed: Feed, message: Position) -> Outcome:
    """From here on nothing counts before the backup has it, too."""
    required = state.applied.index
    feed = replace(
        feed,
        stage=Stage.FOLLOWING,
        acked=message.index,
        alone=False,
        required=required,
        complete=message.complete,
        is_open=False,
    )
    state = replace(state, feed=feed)
    return state, _appends(state, message.index)


def _copy(state: RangeState, feed: Feed, message: Position) -> Outcome:
    """Sends everything there is; what comes meanwhile stays in the log for the backup."""
    assert state.view is not None
    assert state.view.backup is not None
    log = state.log.without(state.applied.index)
    feed = replace(
        feed,
        stage=Stage.COPYING,
        acked=state.applied.index,
        alone=not message.complete,
    )
    snapshot = Send(state.view.backup, Snapshot(state.number, state.applied))
    return replace(state, feed=feed, log=log), (snapshot,)


def _appends(state: RangeState, after: int) -> tuple[Action, ...]:
    """The entries behind `after`, one message each."""
    assert state.view is not None
    assert state.view.backup is not None
    assert state.feed is not None
    actions = []
    for logged in state.log.after(after):
        term = state.log.term_at(after)
        assert term is not None
        message = Append(state.number, after, term, logged.term, logged.entry, state.feed.required)
        actions.append(Send(state.view.backup, message))
        after += 1
    return tuple(actions)
