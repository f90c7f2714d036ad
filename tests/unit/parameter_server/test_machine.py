"""One copy of a range, event by event."""

import math

import pytest

from reknit.parameter_server.machine import handle
from reknit.parameter_server.messages import (
    Acknowledged,
    Append,
    Joined,
    Kind,
    Position,
    Probe,
    Pulled,
    Reason,
    Refused,
    Request,
    Snapshot,
)
from reknit.parameter_server.state import (
    Apply,
    Heard,
    Install,
    Leased,
    RangeState,
    Received,
    Send,
    Tell,
    Tick,
    Viewed,
    new_range,
)
from reknit.parameter_server.status import status
from reknit.parameter_server.table import Consistency, Mode, Seated, settled
from reknit.parameter_server.views import Member, View

ASYNCHRONOUS = Mode(Consistency.ASYNCHRONOUS)
SYNCHRONOUS = Mode(Consistency.SYNCHRONOUS)
MEMBERS = (Member(0, 1), Member(1, 1))


def view(number: int, primary: str, backup: str | None, roster: int = 1) -> View:
    return View(number, roster, primary, backup, MEMBERS)


def run(state: RangeState, *events, now: float = 0.0):
    """The state after several events, and all actions."""
    actions = []
    for event in events:
        state, more = handle(state, event, now)
        actions += more
    return state, actions


def request(kind: Kind, worker=0, clock=0, number=1, roster=1, incarnation=1, request=7):
    message = Request(kind, worker, incarnation, number, roster, request, clock)
    return Received(message, "content" if kind is Kind.PULL else f"gradient {worker}:{clock}")


def alone(mode: Mode = ASYNCHRONOUS) -> RangeState:
    """A primary without a backup."""
    state = new_range("a", mode, holds_since=1)
    return run(state, Viewed(view(1, "a", None)), Leased(1, 10.0))[0]


def pair(mode: Mode = ASYNCHRONOUS) -> tuple[RangeState, RangeState]:
    """A primary and a backup that follows it."""
    first, second = (new_range(name, mode, holds_since=1) for name in "ab")
    first, sent = run(first, Viewed(view(1, "a", "b")), Leased(1, 10.0))
    second, _ = run(second, Viewed(view(1, "a", "b")))
    first, second, _ = talk(first, second, sent)
    return first, second


def talk(first: RangeState, second: RangeState, sent):
    """Delivers messages between "a" and "b" until there are none; all other actions."""
    others, queue = [], list(sent)
    while queue:
        action = queue.pop(0)
        if not isinstance(action, Send):
            others.append(action)
        elif action.server == "b":
            second, more = run(second, Heard(action.message, "tensors"))
            queue += more
        else:
            first, more = run(first, Heard(action.message))
            queue += more
    return first, second, others


def replies(actions):
    return [action.reply for action in actions if isinstance(action, Tell)]


def updates(actions):
    return [
        [(push.worker, push.clock) for push in action.update.pushes]
        for action in actions
        if isinstance(action, Apply)
    ]


def test_a_push_counts_once_the_backup_has_it():
    first, second = pair()
    first, sent = run(first, request(Kind.PUSH), request(Kind.PULL, clock=1, request=8))
    assert not replies(sent)
    assert not updates(sent)
    first, second, done = talk(first, second, sent)
    assert replies(done) == [Acknowledged(7), Pulled(8, 1)]
    assert updates(done) == [[(0, 0)], [(0, 0)]], "on both"
    assert first.applied == second.applied


def test_the_backup_confirms_before_it_computes():
    first, second = pair()
    _, sent = run(first, request(Kind.PUSH))
    _, actions = run(second, Heard(sent[0].message))
    assert [type(action) for action in actions] == [Send, Apply]


def test_a_push_that_comes_again_is_only_acknowledged():
    state, _ = run(alone(), request(Kind.PUSH))
    state, actions = run(state, request(Kind.PUSH, request=9))
    assert actions == [Tell(0, 1, Acknowledged(9))]
    assert state.applied.version == 1


def test_whether_a_push_has_arrived_can_be_asked():
    first, second = pair()
    assert replies(run(first, request(Kind.ASK))[1]) == [Refused(7, Reason.MISSING)]
    first, sent = run(first, request(Kind.PUSH))
    first, nothing = run(first, request(Kind.ASK))
    assert nothing == []
    first, _, done = talk(first, second, sent)
    assert replies(done) == [Acknowledged(7)]
    assert replies(run(first, request(Kind.ASK, request=9))[1]) == [Acknowledged(9)]


def test_a_push_after_a_gap_is_refused():
    _, actions = run(alone(), request(Kind.PUSH, clock=1))
    assert replies(actions) == [Refused(7, Reason.EARLY)]


@pytest.mark.parametrize("kind", Kind)
def test_after_its_lease_a_primary_serves_nothing(kind):
    state = alone()
    assert replies(run(state, request(kind), now=9.9)[1])
    assert replies(run(state, request(kind), now=10.0)[1]) == [Refused(7, Reason.NOT_SERVING)]


def test_what_came_before_the_lease_ended_is_answered_when_it_is_renewed():
    first, second = pair()
    first, sent = run(first, request(Kind.PUSH), now=9.9)
    _, answer = run(second, Heard(sent[0].message))
    first, late = run(first, Heard(answer[0].message), Leased(2, 99.0), now=10.0)
    assert not replies(late)
    assert not updates(late)
    _, actions = run(first, Leased(1, 20.0), now=11.0)
    assert replies(actions) == [Acknowledged(7)]
    assert updates(actions) == [[(0, 0)]]


def test_a_backup_refuses_workers():
    _, second = pair()
    assert replies(run(second, request(Kind.PULL))[1]) == [Refused(7, Reason.NOT_SERVING)]


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (request(Kind.PUSH, number=2), Reason.OTHER_VIEW),
        (request(Kind.PUSH, roster=2), Reason.OTHER_VIEW),
        (request(Kind.PULL, number=0), Reason.OTHER_VIEW),
        (request(Kind.PULL, incarnation=2), Reason.NO_MEMBER),
        (request(Kind.JOIN, worker=5), Reason.NO_MEMBER),
    ],
)
def test_requests_of_other_views_and_processes_are_refused(received, reason):
    state, actions = run(alone(), received)
    assert replies(actions) == [Refused(7, reason)]
    assert state == alone()


def test_synchronous_pushes_are_summed_in_the_order_of_workers():
    state, actions = run(alone(SYNCHRONOUS), request(Kind.PUSH, worker=1))
    assert updates(actions) == []
    assert replies(actions) == [Acknowledged(7)]
    state, actions = run(state, request(Kind.PUSH, worker=0))
    assert updates(actions) == [[(0, 0), (1, 0)]]
    assert state.applied.version == 1


def test_a_synchronous_pull_gets_exactly_its_version():
    state = alone(SYNCHRONOUS)
    for clock in range(2):
        pushes = [request(Kind.PUSH, worker, clock) for worker in (0, 1)]
        state, _ = run(state, *pushes)
    found = [replies(run(state, request(Kind.PULL, clock=clock))[1]) for clock in range(4)]
    assert found == [[Refused(7, Reason.GONE)], [Pulled(7, 1)], [Pulled(7, 2)], []]


def test_other_workers_take_the_present_clock_anew():
    state, _ = run(alone(SYNCHRONOUS), request(Kind.PUSH, worker=0))
    members = (*MEMBERS, Member(2, 1))
    state, _ = run(state, Viewed(View(1, 2, "a", None, members)))
    assert replies(run(state, request(Kind.JOIN, roster=2))[1]) == [Joined(7, 0, 2)]
    pushes = [request(Kind.PUSH, worker, roster=2) for worker in (2, 0, 1)]
    assert updates(run(state, *pushes)[1]) == [[(0, 0), (1, 0), (2, 0)]]


def test_a_worker_that_starts_later_leaves_the_present_clock_alone():
    state, _ = run(alone(SYNCHRONOUS), request(Kind.PUSH, worker=0))
    state, _ = run(state, Viewed(View(1, 2, "a", None, (*MEMBERS, Member(2, 1, start=1)))))
    state, actions = run(state, request(Kind.PUSH, worker=1, roster=2))
    assert updates(actions) == [[(0, 0), (1, 0)]]
    state, actions = run(state, *(request(Kind.PUSH, w, 1, roster=2) for w in (0, 1)))
    assert updates(actions) == []
    assert updates(run(state, request(Kind.PUSH, 2, 1, roster=2))[1]) == [[(0, 1), (1, 1), (2, 1)]]


def test_a_worker_in_the_same_place_keeps_its_clocks():
    state, _ = run(alone(), request(Kind.PUSH))
    state, _ = run(state, Viewed(View(1, 2, "a", None, (Member(0, 2), Member(1, 1)))))
    assert replies(run(state, request(Kind.PUSH, roster=2))[1]) == [Refused(7, Reason.NO_MEMBER)]
    found = run(state, request(Kind.JOIN, roster=2, incarnation=2))[1]
    assert replies(found) == [Joined(7, 1, 2)]


def test_bounded_staleness_holds_back_pulls_and_a_leaver_lets_them_go():
    state = alone(Mode(Consistency.STALE_SYNCHRONOUS, 1))
    state, _ = run(state, *(request(Kind.PUSH, clock=clock) for clock in range(2)))
    assert replies(run(state, request(Kind.PULL, clock=1))[1]) == [Pulled(7, 2)]
    state, actions = run(state, request(Kind.PULL, clock=2))
    assert replies(actions) == []
    assert status(state, 0.0).clocks_behind == {0: 0, 1: 2}
    actions = run(state, Viewed(View(1, 2, "a", None, MEMBERS[:1])))[1]
    assert replies(actions) == [Pulled(7, 2)]


def test_the_backup_takes_over_and_what_was_on_its_way_comes_again():
    first, second = pair()
    first, sent = run(first, request(Kind.PUSH))
    first, second, _ = talk(first, second, sent)
    second, _ = run(second, Viewed(view(2, "b", None)), Leased(2, 10.0))
    again, fresh = (request(Kind.PUSH, clock=clock, number=2) for clock in (0, 1))
    second, actions = run(second, again, fresh)
    assert replies(actions) == [Acknowledged(7), Acknowledged(7)]
    assert updates(actions) == [[(0, 1)]]


def test_a_copy_that_missed_a_view_does_not_take_over():
    """In view 2 the primary may have gone on alone."""
    _, second = pair()
    assert run(second, Viewed(view(2, "b", None)))[0].complete
    second, _ = run(second, Viewed(view(3, "b", None)), Leased(3, 10.0))
    assert not second.complete
    found = run(second, request(Kind.PULL, number=3))[1]
    assert replies(found) == [Refused(7, Reason.NOT_SERVING)]


def test_a_new_backup_gets_a_snapshot_and_then_the_log():
    first, _ = run(alone(), request(Kind.PUSH))
    first, sent = run(first, Viewed(view(2, "a", "b")))
    second, _ = run(new_range("b", ASYNCHRONOUS), Viewed(view(2, "a", "b")))
    second, answer = run(second, Heard(sent[0].message))
    first, sent = run(first, *(Heard(action.message) for action in answer))
    assert isinstance(sent[0].message, Snapshot)
    # Meanwhile the primary goes on alone.
    first, actions = run(first, request(Kind.PUSH, clock=1, number=2))
    assert replies(actions) == [Acknowledged(7)]
    assert not status(first, 0.0).protected
    second, installed = run(second, Heard(sent[0].message, "tensors"))
    assert isinstance(installed[0], Install)
    assert not second.complete
    first, second, done = talk(first, second, installed)
    assert updates(done) == [[(0, 1)]]
    assert first.applied == second.applied
    assert second.complete
    assert status(first, 0.0).protected
    assert first.log.entries == ()


def test_from_the_snapshot_on_nothing_counts_without_the_backup():
    first, _ = run(alone(), Viewed(view(2, "a", "b")))
    first, _ = run(first, Heard(Position(2, -1, 0, False, probe=1)))
    first, _ = run(first, Heard(Position(2, first.applied.index, 1, False)))
    assert replies(run(first, request(Kind.PUSH, number=2))[1]) == []


def test_a_lost_entry_is_sent_again_when_the_backup_says_that_it_lacks_it():
    first, second = pair()
    first, lost = run(first, request(Kind.PUSH))
    assert isinstance(lost[0].message, Append)
    first, asked = run(first, Tick(), now=1.0)
    assert isinstance(asked[0].message, Probe)
    first, _, done = talk(first, second, asked)
    assert replies(done) == [Acknowledged(7)]


def test_an_answer_to_an_earlier_question_repeats_nothing():
    first, _ = pair()
    first, sent = run(first, request(Kind.PUSH), now=1.0)
    position = Position(1, 1, 1, True, probe=first.feed.probe - 1)
    assert run(first, Heard(position), now=1.0)[1] == []
    assert [type(action.message) for action in sent] == [Append, Probe]


def test_messages_of_another_view_are_ignored():
    first, second = pair()
    entry = Append(2, 1, 1, 2, Seated(()), 0)
    assert run(second, Heard(entry)) == (second, [])
    assert run(first, Heard(Position(2, 5, 1, True))) == (first, [])
    assert run(first, Viewed(view(1, "b", None, roster=0))) == (first, [])


def test_a_silent_backup_is_told_of():
    first, _ = pair()
    first, _ = run(first, request(Kind.PUSH), now=1.0)
    first, _ = run(first, Tick(), now=2.5)
    assert status(first, 3.0).backup_silent_seconds == 2.0
    assert status(first, 3.0).num_logged == 1


def test_a_copy_without_content_says_so():
    state = new_range("c", ASYNCHRONOUS)
    state, _ = run(state, Viewed(view(1, "a", "c")))
    _, actions = run(state, Heard(Probe(1, 1, None)))
    assert actions == [Send("a", Position(1, -1, 0, False, 1))]
    assert status(state, 0.0).lease_seconds == 0.0


def test_a_demoted_primary_has_no_lease_any_more():
    first, _ = pair()
    first, _ = run(first, Viewed(view(2, "b", "a")))
    assert first.lease_until == -math.inf
    assert not first.complete


@pytest.mark.parametrize(
    "mode", [(Consistency.SYNCHRONOUS, 1), (Consistency.STALE_SYNCHRONOUS, -1)]
)
def test_a_staleness_that_means_nothing_is_refused(mode):
    with pytest.raises(ValueError, match="staleness"):
        Mode(*mode)


@pytest.mark.parametrize(
    ("mode", "clocks"), [(SYNCHRONOUS, {0: 1, 1: 1}), (ASYNCHRONOUS, {0: 2, 1: 1})]
)
def test_clocks_go_on_from_a_checkpoint(mode, clocks):
    """A step that not all workers have pushed is taken anew."""
    pushes = [request(Kind.PUSH, *push) for push in ((0, 0), (1, 0), (0, 1))]
    table = settled(run(alone(mode), *pushes)[0].applied)
    restored = new_range("c", mode, holds_since=4, table=table)
    restored, _ = run(restored, Viewed(view(4, "c", None)), Leased(4, 10.0))
    asked = {w: replies(run(restored, request(Kind.JOIN, w, number=4))[1]) for w in (0, 1)}
    assert asked == {worker: [Joined(7, clock, 1)] for worker, clock in clocks.items()}
