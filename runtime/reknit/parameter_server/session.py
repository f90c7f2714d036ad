"""A worker's side of one range as a pure state machine: (state, event, time) -> (state, actions).

Requests are repeated until they are answered, and with every new view. Unless something says that a
push got lost, the server is first asked whether it has arrived: gradients are large, and a slow
network must not get slower by them. One push is under way at a
time, later ones wait their turn, so that a range never sees a gap.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from reknit.parameter_server.messages import Kind, Reason, Refused, Reply, Request
from reknit.parameter_server.views import View

FIRST_REPEAT: Final = 2.0
"""Seconds without an answer after which a request is sent again; doubled each time."""
LAST_REPEAT: Final = 16.0
RETRY: Final = 0.02
"""Seconds after which a refused request is sent again; doubled each time."""
LAST_RETRY: Final = 0.64


@dataclass(frozen=True, slots=True)
class Open:
    """A request without an answer."""

    kind: Kind
    clock: int
    content: object = field(default=None, compare=False)
    source: str = ""
    """As in `Request`."""
    due: float | None = None
    """When it is sent again; None before it was sent."""
    was_sent: bool = False
    """To the present primary, and it has not refused it."""
    num_repeats: int = 0
    num_refusals: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """What a worker's process knows of one range."""

    worker: int
    incarnation: int
    is_synchronous: bool
    view: View | None = None
    requests: Mapping[int, Open] = field(default_factory=dict)
    """By number, in the order in which they were issued."""
    is_void: bool = False
    """Other workers share the steps since the last join: what was computed before has no use."""


@dataclass(frozen=True, slots=True)
class Issue:
    """The training loop wants something; numbers grow."""

    request: int
    kind: Kind
    clock: int
    content: object = field(default=None, compare=False)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Viewed:
    """The coordinator has published a view."""

    view: View


@dataclass(frozen=True, slots=True)
class Replied:
    """A server has answered; `content` comes with a `Pulled`."""

    server: str
    reply: Reply
    content: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = Issue | Viewed | Replied | Tick


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this to a server."""

    server: str
    request: Request
    content: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Finish:
    """A request is answered."""

    request: int
    reply: Reply
    content: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Void:
    """The workers have changed: the step that this request belongs to has to be taken anew."""

    request: int


Action: TypeAlias = Transmit | Finish | Void
Outcome: TypeAlias = tuple[Session, tuple[Action, ...]]

_FINAL: Final = frozenset({Reason.NO_MEMBER, Reason.GONE, Reason.INVALID})
"""Repeating the request would not help."""


def handle(state: Session, event: Event, now: float) -> Outcome:
    """The session after `event` at time `now`: seconds that never go back."""
    actions: tuple[Action, ...] = ()
    match event:
        case Issue(number, kind, clock, content, source):
            if state.is_void and kind is not Kind.JOIN:
                return state, (Void(number),)
            requests = {**state.requests, number: Open(kind, clock, content, source)}
            state = replace(state, requests=requests, is_void=False)
        case Viewed(view):
            state, actions = _see(state, view)
        case Replied():
            state, actions = _hear(state, event, now)
        case Tick():
            pass
    state, sent = _send(state, now)
    return state, (*actions, *sent)


def _see(state: Session, view: View) -> Outcome:
    former = state.view
    if former is not None and view.key <= former.key:
        return state, ()
    state = replace(state, view=view)
    if former is not None and state.is_synchronous and _workers(former) != _workers(view):
        voided = tuple(Void(number) for number in state.requests)
        return replace(state, requests={}, is_void=True), voided
    requests = {
        number: replace(request, due=None, was_sent=False, num_repeats=0, num_refusals=0)
        for number, request in state.requests.items()
    }
    return replace(state, requests=requests), ()


def _workers(view: View) -> frozenset[tuple[int, int]]:
    return frozenset((member.worker, member.start) for member in view.members)


def _hear(state: Session, event: Replied, now: float) -> Outcome:
    reply = event.reply
    request = state.requests.get(reply.request)
    if request is None or state.view is None or event.server != state.view.primary:
        return state, ()
    if isinstance(reply, Refused) and reply.reason not in _FINAL:
        wait = min(RETRY * 2 ** min(request.num_refusals, 10), LAST_RETRY)
        request = replace(
            request,
            due=now if reply.reason is Reason.MISSING else now + wait,
            was_sent=False,
            num_refusals=request.num_refusals + 1,
        )
        return replace(state, requests={**state.requests, reply.request: request}), ()
    requests = {number: r for number, r in state.requests.items() if number != reply.request}
    finish = Finish(reply.request, reply, event.content)
    return replace(state, requests=requests), (finish,)


def _send(state: Session, now: float) -> Outcome:
    """Sends what is due."""
    view, is_pushing = state.view, False
    if view is None:
        return state, ()
    requests, actions = dict(state.requests), []
    for number, request in state.requests.items():
        if request.kind is Kind.PUSH:
            if is_pushing:
                continue
            is_pushing = True
        if request.due is not None and now < request.due:
            continue
        wait = min(FIRST_REPEAT * 2 ** min(request.num_repeats, 10), LAST_REPEAT)
        requests[number] = replace(
            request, due=now + wait, was_sent=True, num_repeats=request.num_repeats + 1
        )
        asks = request.was_sent and request.kind is Kind.PUSH
        message = Request(
            Kind.ASK if asks else request.kind,
            state.worker,
            state.incarnation,
            view.number,
            view.roster,
            number,
            request.clock,
            request.source,
        )
        actions.append(Transmit(view.primary, message, None if asks else request.content))
    return (replace(state, requests=requests), tuple(actions)) if actions else (state, ())
