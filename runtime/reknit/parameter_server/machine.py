"""One copy of one range as a pure state machine: (state, event, time) -> (state, actions).

The rules, primary-backup replication with views (Oki and Liskov, PODC 1988; Alsberg and Day, ICSE
1976) and leases (Gray and Cheriton, SOSP 1989):

- The primary orders the pushes. The backup takes them in that order, and says so before it applies
  them. What it has not got is neither applied by the primary nor acknowledged nor seen by a pull.
- A view is obeyed if it is newer. Messages that belong to another number are ignored.
- A primary answers only while its lease lasts, and the next one is not appointed before it ends.
- A new backup gets a snapshot, then the entries behind it. Until it has the snapshot the primary
  goes on alone: there is no second copy to keep in step.
- A copy that may have missed something does not take over. It knows that it has not if it was told
  so in the same view, or in the one just before.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from reknit.parameter_server import backup, feeding, serving
from reknit.parameter_server.messages import Append, Position, Probe, Snapshot
from reknit.parameter_server.state import (
    Event,
    Feed,
    Heard,
    Leased,
    Log,
    Outcome,
    RangeState,
    Received,
    Tick,
    Viewed,
)
from reknit.parameter_server.views import View

RULES: Final[tuple[Callable[[RangeState, float], Outcome], ...]] = (
    feeding.probe,
    serving.commit,
    serving.answer,
)


def handle(state: RangeState, event: Event, now: float) -> Outcome:
    """The copy after `event` at time `now`: seconds of this server's clock, never going back."""
    state, actions = _learn(state, event, now)
    for rule in RULES:
        state, more = rule(state, now)
        actions += more
    return state, actions


def _learn(state: RangeState, event: Event, now: float) -> Outcome:
    match event:
        case Received():
            return serving.receive(state, event, now)
        case Heard(message, tensors):
            if state.view is None or message.number != state.number:
                return state, ()
            match message:
                case Append():
                    return backup.append(state, message)
                case Probe():
                    return backup.probed(state, message)
                case Snapshot():
                    return backup.install(state, message, tensors)
                case Position():
                    return feeding.heard(state, message)
        case Viewed(view):
            return _see(state, view)
        case Leased(number, until):
            if state.is_primary and number == state.number:
                return replace(state, lease_until=max(state.lease_until, until)), ()
            return state, ()
        case Tick():
            return state, ()


def _see(state: RangeState, view: View) -> Outcome:
    """Obeys a newer view."""
    is_old = view.number <= state.number if state.view is None else view.key <= state.view.key
    if is_old:
        return state, ()
    if view.number > state.number:
        holds = state.server in (view.primary, view.backup)
        state = _founded(state, view) if view.founds and holds else _changed_servers(state, view)
    members = {(member.worker, member.incarnation) for member in view.members}
    waiting = {
        key: received
        for key, received in state.waiting.items()
        if (received.request.worker, received.request.incarnation) in members
    }
    state = replace(state, view=view, number=view.number, waiting=waiting)
    return serving.seat(state) if state.is_primary and state.complete else (state, ())


def _changed_servers(state: RangeState, view: View) -> RangeState:
    """Takes up the part that the view gives this copy.

    It stays complete if it has seen every view since it was: in another one the primary may have
    gone on without it. Only one who was the primary knows that it has missed nothing.
    """
    former, own = state.view, state.server
    stays = state.is_primary and view.primary == own
    complete = state.complete and (stays or view.number == state.number + 1)
    if stays:
        return replace(state, complete=complete, feed=_feed(view))
    follows = former is None or former.primary == view.primary
    if view.primary != own:
        complete = complete and follows and view.backup == own
    return replace(
        state,
        complete=complete,
        lease_until=-math.inf,
        ordered=state.applied,
        log=Log(state.applied.index, state.applied.term),
        feed=_feed(view) if view.primary == own else None,
        waiting={},
    )


def _founded(state: RangeState, view: View) -> RangeState:
    """Both copies hold the same nothing, and are complete."""
    return RangeState(
        server=state.server,
        mode=state.mode,
        number=state.number,
        complete=True,
        feed=_feed(view) if view.primary == state.server else None,
    )


def _feed(view: View) -> Feed | None:
    return None if view.backup is None else Feed()
