from hypothesis import given
from hypothesis import strategies as st

from reknit.coordinator.history import NUMBERS_PER_INCARNATION, Ring
from reknit.protocol.status import EventRecord


def event(number: int) -> EventRecord:
    return EventRecord(time=number, reason="Evaluated", message=str(number))


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 20))
def test_a_reader_sees_each_record_once_in_order(num_records, limit, capacity) -> None:
    ring = Ring(1, capacity)
    for number in range(num_records):
        ring.append(event(number))
    seen, after = [], 0
    while (history := ring.after(after, limit)).records:
        seen += [int(record.message) for record in history.records]
        after = history.next
    assert seen == list(range(max(0, num_records - capacity), num_records))


def test_a_reader_of_the_coordinator_before_misses_nothing() -> None:
    first, second = Ring(1), Ring(2)
    for number in range(5):
        first.append(event(number))
    after = first.after(0).next
    second.append(event(9))
    assert [record.message for record in second.after(after).records] == ["9"]


def test_nothing_is_beyond_the_end() -> None:
    ring = Ring(1)
    ring.append(event(0))
    assert ring.after(NUMBERS_PER_INCARNATION + 77).records == ()
