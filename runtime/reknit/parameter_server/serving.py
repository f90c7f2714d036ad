"""What a primary does for workers. Pure."""

from dataclasses import replace

from reknit.parameter_server.feeding import order
from reknit.parameter_server.messages import (
    Acknowledged,
    Described,
    Joined,
    Kind,
    Pulled,
    Reason,
    Refused,
    Reply,
    Request,
)
from reknit.parameter_server.state import (
    Action,
    Outcome,
    RangeState,
    Received,
    Tell,
    carry_out,
)
from reknit.parameter_server.table import (
    Pushed,
    Readiness,
    Restored,
    Seated,
    Standing,
    advance,
    readiness,
    standing,
)


def receive(state: RangeState, received: Received, now: float) -> Outcome:
    """Takes a request, or refuses it; it is answered when everything is there."""
    request, view = received.request, state.view
    if view is None or not state.serves(now):
        return state, (_refuse(request, Reason.NOT_SERVING),)
    if (request.number, request.roster) != view.key:
        return state, (_refuse(request, Reason.OTHER_VIEW),)
    member = view.member(request.worker)
    if member is None or member.incarnation != request.incarnation:
        return state, (_refuse(request, Reason.NO_MEMBER),)
    key = (request.worker, request.request)
    actions: tuple[Action, ...] = ()
    if request.kind in (Kind.PUSH, Kind.ASK):
        found = standing(state.ordered, request.worker, request.clock, state.mode)
        if request.kind is Kind.ASK and found is not Standing.KNOWN:
            return state, (_refuse(request, Reason.MISSING),)
        if found is Standing.EARLY:
            return state, (_refuse(request, Reason.EARLY),)
        if found is Standing.NEW:
            clock, gradient = request.clock, received.content
            pushed = Pushed(request.worker, request.incarnation, clock, gradient)
            state, actions = order(state, pushed)
        received = Received(request)
    if request.kind is Kind.RESTORE and state.ordered.origin < request.incarnation:
        entry = Restored(request.incarnation, request.clock, request.source)
        state, actions = order(state, entry)
    return replace(state, waiting={**state.waiting, key: received}), actions


def seat(state: RangeState) -> Outcome:
    """Puts the workers of the view into the order, if they are others."""
    assert state.view is not None
    if state.ordered.members == state.view.members:
        return state, ()
    return order(state, Seated(state.view.members))


def commit(state: RangeState, now: float) -> Outcome:
    """Applies what both copies hold."""
    if not state.serves(now):
        return state, ()
    table, feed = state.applied, state.feed
    held = state.log.last if feed is None or feed.alone else min(state.log.last, feed.acked)
    actions: list[Action] = []
    for logged in state.log.after(table.index)[: max(0, held - table.index)]:
        table, effect = advance(table, logged.entry, logged.term, state.mode)
        actions += carry_out(effect)
    needed = table.index if feed is None else min(table.index, feed.acked)
    if table is state.applied and needed == state.log.base:
        return state, ()
    return replace(state, applied=table, log=state.log.without(needed)), tuple(actions)


def answer(state: RangeState, now: float) -> Outcome:
    """Answers the requests for which everything is there."""
    if not state.waiting or not state.serves(now):
        return state, ()
    assert state.view is not None
    if state.applied.members != state.view.members:
        return state, ()
    replies = {key: _reply(state, received.request) for key, received in state.waiting.items()}
    actions = tuple(
        Tell(
            worker,
            state.waiting[worker, number].request.incarnation,
            reply,
            state.waiting[worker, number].content,
        )
        for (worker, number), reply in replies.items()
        if reply is not None
    )
    waiting = {key: state.waiting[key] for key, reply in replies.items() if reply is None}
    return (replace(state, waiting=waiting), actions) if actions else (state, ())


def _reply(state: RangeState, request: Request) -> Reply | None:
    table = state.applied
    if request.kind in (Kind.PUSH, Kind.ASK):
        known = standing(table, request.worker, request.clock, state.mode) is Standing.KNOWN
        return Acknowledged(request.request) if known else None
    if request.kind is Kind.JOIN:
        assert state.view is not None
        clock = table.clocks[request.worker]
        return Joined(request.request, clock, state.view.roster, table.origin)
    if request.kind is Kind.RESTORE:
        is_done = table.origin >= request.incarnation
        return Acknowledged(request.request) if is_done else None
    if request.kind is Kind.DESCRIBE and table.version == request.clock:
        return Described(request.request, table.version)
    match readiness(table, request.worker, request.clock, state.mode):
        case Readiness.READY if request.kind is Kind.DESCRIBE:
            # Only the newest version is held with all that belongs to it.
            return Refused(request.request, Reason.GONE)
        case Readiness.READY:
            version = request.clock if state.mode.is_synchronous else table.version
            return Pulled(request.request, version)
        case Readiness.GONE:
            return Refused(request.request, Reason.GONE)
        case Readiness.WAIT:
            return None


def _refuse(request: Request, reason: Reason) -> Tell:
    return Tell(request.worker, request.incarnation, Refused(request.request, reason))
