"""A worker's side of a range, event by event."""

import pytest

from reknit.parameter_server.messages import Acknowledged, Kind, Pulled, Reason, Refused
from reknit.parameter_server.session import (
    FIRST_REPEAT,
    RETRY,
    Finish,
    Issue,
    Replied,
    Session,
    Tick,
    Transmit,
    Viewed,
    Void,
    handle,
)
from reknit.parameter_server.views import Member, View

MEMBERS = (Member(0, 1), Member(1, 1))


def view(number=1, roster=1, primary="a", members=MEMBERS) -> View:
    return View(number, roster, primary, None, members)


def run(state: Session, *events, now: float = 0.0):
    actions = []
    for event in events:
        state, more = handle(state, event, now)
        actions += more
    return state, actions


def session(is_synchronous: bool = False) -> Session:
    return run(Session(0, 1, is_synchronous), Viewed(view()))[0]


def sent(actions):
    return [(a.server, a.request.request) for a in actions if isinstance(a, Transmit)]


def push(request: int, clock: int = 0) -> Issue:
    return Issue(request, Kind.PUSH, clock, f"gradient {clock}")


def test_nothing_is_sent_before_the_first_view():
    state, actions = run(Session(0, 1, False), push(1))
    assert actions == []
    _, actions = run(state, Viewed(view()))
    assert sent(actions) == [("a", 1)]
    assert (actions[0].request.number, actions[0].request.roster) == (1, 1)


def test_one_push_is_under_way_at_a_time_and_pulls_beside_it():
    state, actions = run(session(), push(1, 0), push(2, 1), Issue(3, Kind.PULL, 2))
    assert sent(actions) == [("a", 1), ("a", 3)]
    _, actions = run(state, Replied("a", Acknowledged(1)))
    assert actions[0] == Finish(1, Acknowledged(1))
    assert sent(actions) == [("a", 2)]


def test_a_new_view_sends_everything_to_the_new_primary_at_once():
    state, _ = run(session(), push(1), Issue(2, Kind.PULL, 1))
    state, actions = run(state, Viewed(view(number=2, primary="b")))
    assert sent(actions) == [("b", 1), ("b", 2)]
    assert {action.request.clock for action in actions} == {0, 1}
    assert run(state, Viewed(view(number=1))) == (state, [])


def test_answers_of_a_former_primary_count_no_more():
    state, _ = run(session(), push(1), Viewed(view(number=2, primary="b")))
    assert run(state, Replied("a", Acknowledged(1))) == (state, [])
    assert run(state, Replied("b", Acknowledged(1)))[1] == [Finish(1, Acknowledged(1))]


def test_a_silent_server_is_asked_again_ever_more_seldom():
    state, _ = run(session(), push(1))
    times = []
    for tenth in range(1, 151):
        state, actions = run(state, Tick(), now=tenth / 10)
        times += [tenth / 10] * len(sent(actions))
    assert times == [FIRST_REPEAT, 3 * FIRST_REPEAT, 7 * FIRST_REPEAT]


def test_a_gradient_travels_again_only_if_it_has_not_arrived():
    state, first = run(session(), push(1))
    state, asked = run(state, Tick(), now=FIRST_REPEAT)
    assert [a.request.kind for a in (*first, *asked)] == [Kind.PUSH, Kind.ASK]
    assert asked[0].content is None
    state, again = run(state, Replied("a", Refused(1, Reason.MISSING)), now=FIRST_REPEAT)
    assert [(a.request.kind, a.content) for a in again] == [(Kind.PUSH, "gradient 0")]
    _, elsewhere = run(state, Viewed(view(number=2, primary="b")))
    assert elsewhere[0].request.kind is Kind.PUSH


@pytest.mark.parametrize("reason", [Reason.NOT_SERVING, Reason.OTHER_VIEW, Reason.EARLY])
def test_a_refusal_that_may_pass_is_followed_by_another_attempt(reason):
    state, _ = run(session(), push(1))
    state, actions = run(state, Replied("a", Refused(1, reason)))
    assert actions == []
    assert sent(run(state, Tick(), now=RETRY / 2)[1]) == []
    assert sent(run(state, Tick(), now=RETRY)[1]) == [("a", 1)]


@pytest.mark.parametrize("reason", [Reason.NO_MEMBER, Reason.GONE, Reason.INVALID])
def test_a_refusal_that_is_final_ends_the_request(reason):
    state, _ = run(session(), push(1))
    state, actions = run(state, Replied("a", Refused(1, reason)))
    assert actions == [Finish(1, Refused(1, reason))]
    assert state.requests == {}


@pytest.mark.parametrize(
    ("is_synchronous", "members", "void"),
    [
        (True, (Member(0, 1),), True),
        (True, (*MEMBERS, Member(2, 1)), True),
        (True, (Member(0, 1), Member(1, 2)), False),
        (False, (Member(0, 1),), False),
    ],
)
def test_other_workers_void_what_is_under_way_in_synchronous_mode(is_synchronous, members, void):
    state, _ = run(session(is_synchronous), push(1), Issue(2, Kind.PULL, 1))
    state, actions = run(state, Viewed(view(roster=2, members=members)))
    assert [a for a in actions if isinstance(a, Void)] == ([Void(1), Void(2)] if void else [])
    assert list(state.requests) == ([] if void else [1, 2])


def test_what_was_computed_before_the_workers_changed_is_void_until_the_next_join():
    state, _ = run(session(True), Viewed(view(roster=2, members=MEMBERS[:1])))
    assert run(state, push(1))[1] == [Void(1)]
    state, actions = run(state, Issue(2, Kind.JOIN, 0), push(3))
    assert sent(actions) == [("a", 2), ("a", 3)]


def test_answers_come_with_their_content():
    state, _ = run(session(), Issue(1, Kind.PULL, 0))
    _, actions = run(state, Replied("a", Pulled(1, 4), "weights"))
    assert actions[0].content == "weights"
    assert run(state, Replied("a", Pulled(99, 4)))[1] == []
