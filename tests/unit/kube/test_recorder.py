"""Events are few."""

from hypothesis import given
from hypothesis import strategies as st

from reknit_operator.kube.recorder import (
    BURST,
    MAX_ENTRIES,
    REFILL_SECONDS,
    SAME_SECONDS,
    EventBook,
)


def event(message="m", uid="u", reason="PodReplaced"):
    involved = {"uid": uid, "name": "gpt"}
    return {"involvedObject": involved, "type": "Normal", "reason": reason, "message": message}


def test_the_same_event_is_counted_up():
    book = EventBook()
    entries = [book.note(event(), float(second)) for second in range(3)]
    assert [entry.count for entry in entries] == [1, 2, 3]
    assert len({entry.name for entry in entries}) == 1


def test_events_that_differ_stand_apart():
    book = EventBook()
    events = [event(), event("n"), event(uid="v"), event(reason="Started")]
    assert len({book.note(each, 0.0).name for each in events}) == len(events)


def test_after_a_while_it_is_a_new_one():
    book = EventBook()
    first = book.note(event(), 0.0)
    second = book.note(event(), SAME_SECONDS)
    assert (second.count, second.name == first.name) == (1, False)


def test_what_could_not_be_written_is_written_anew():
    book = EventBook()
    first = book.note(event(), 0.0)
    book.forget(event())
    second = book.note(event(), 1.0)
    assert (second.count, second.name == first.name) == (1, False)


def test_one_job_does_not_drown_the_others():
    book = EventBook()
    told = [book.note(event(str(number)), 0.0) for number in range(3 * BURST)]
    assert sum(entry is not None for entry in told) == BURST
    assert book.note(event(uid="other"), 0.0) is not None


def test_a_quiet_job_may_speak_again():
    book = EventBook()
    for number in range(2 * BURST):
        book.note(event(str(number)), 0.0)
    assert book.note(event("late"), REFILL_SECONDS - 1) is None
    assert book.note(event("late"), REFILL_SECONDS + 1) is not None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_never_more_than_the_allowance(pauses):
    book, now, told = EventBook(), 0.0, 0
    for number, pause in enumerate(pauses):
        now += pause
        told += book.note(event(str(number)), now) is not None
    assert told <= BURST + now / REFILL_SECONDS + 1


def test_memory_is_bounded():
    book = EventBook()
    for number in range(MAX_ENTRIES + 10):
        book.note(event(uid=str(number)), 0.0)
    assert book.note(event(uid="0"), 1.0).count == 1
    assert book.note(event(uid=str(MAX_ENTRIES + 9)), 1.0).count == 2
