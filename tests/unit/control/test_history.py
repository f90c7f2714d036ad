"""One history out of those of several coordinators."""

import pytest

from fulldisk import room
from reknit.protocol.base import Generation
from reknit.protocol.status import EventRecord, History, StepRecord
from reknit_operator.local.history import HistoryFile
from reknit_operator.local.incarnation import IncarnationFile


class Coordinator:
    """Keeps records and answers like one; `answer` changes what it hands out."""

    def __init__(self, *records):
        self.records = list(records)
        self.reachable = True

    async def history(self, after):
        if not self.reachable:
            return None
        return History(records=tuple(self.records[after:]), next=len(self.records))


def step(number, incarnation=1):
    generation = Generation(incarnation=incarnation, counter=1)
    return StepRecord(time=0.0, generation=generation, step=number)


def event(reason):
    return EventRecord(time=0.0, reason=reason, message="")


def told(history, after=0):
    return [
        record.step if isinstance(record, StepRecord) else record.reason
        for record in history.records(after).records
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.jsonl"


async def test_records_are_taken_once(path):
    coordinator = Coordinator(event("Begun"), step(1))
    with HistoryFile(path) as history:
        await history.gather(coordinator, 1)
        await history.gather(coordinator, 1)
        coordinator.records.append(step(2))
        await history.gather(coordinator, 1)
        assert told(history) == ["Begun", 1, 2]
        assert told(history, 2) == [2]
        assert history.records(2).next == 3
    assert len(path.read_text().splitlines()) == 3


async def test_a_new_coordinator_continues_the_history(path):
    with HistoryFile(path) as history:
        await history.gather(Coordinator(step(1), step(2)), 1)
        await history.gather(Coordinator(event("Adopted"), step(2), step(3)), 2)
        assert told(history) == [1, 2, "Adopted", 3]


async def test_a_redone_step_of_a_later_generation_stands_beside_the_first(path):
    with HistoryFile(path) as history:
        await history.gather(Coordinator(step(1, 1)), 1)
        await history.gather(Coordinator(step(1, 2)), 2)
        assert told(history) == [1, 1]


async def test_an_unreachable_coordinator_changes_nothing(path):
    coordinator = Coordinator(step(1))
    with HistoryFile(path) as history:
        coordinator.reachable = False
        await history.gather(coordinator, 1)
        assert told(history) == []
        coordinator.reachable = True
        await history.gather(coordinator, 1)
        assert told(history) == [1]


async def test_overlapping_calls_take_nothing_twice(path):
    coordinator = Coordinator(event("a"), event("b"))

    class Slow:
        async def history(self, after):
            answer = await coordinator.history(after)
            await history.gather(coordinator, 1)
            return answer

    with HistoryFile(path) as history:
        await history.gather(Slow(), 1)
        assert told(history) == ["a", "b"]


@pytest.mark.parametrize("rest", [b"", b'{"kind":"ev', b"\xff\xfe"])
async def test_an_earlier_run_comes_first_without_its_torn_end(path, rest):
    with HistoryFile(path) as history:
        await history.gather(Coordinator(event("a"), step(1)), 1)
    with path.open("ab") as file:
        file.write(rest)
    with HistoryFile(path) as history:
        await history.gather(Coordinator(event("b")), 2)
        assert told(history) == ["a", 1, "b"]
    with HistoryFile(path) as history:
        assert told(history) == ["a", 1, "b"]


async def test_a_line_that_is_no_record_is_left_out(path, caplog):
    path.write_text("nonsense\n")
    with HistoryFile(path) as history:
        assert told(history) == []
    assert "no record" in caplog.text


@pytest.mark.parametrize("rest", [0, 1, 40])
async def test_a_full_disk_costs_no_record(path, rest):
    coordinator = Coordinator(event("a"))
    with HistoryFile(path) as history:
        await history.gather(coordinator, 1)
        coordinator.records += [step(1), event("b")]
        with room(path.stat().st_size + rest):
            await history.gather(coordinator, 1)
            coordinator.records.append(step(2))
            await history.gather(coordinator, 1)
            assert told(history) == ["a", 1, "b", 2]
            assert history.failure
            assert history.num_unwritten == 3
        # There is nothing new, and room again.
        await history.gather(coordinator, 1)
        assert (history.failure, history.num_unwritten) == (None, 0)
        assert len(path.read_text().splitlines()) == 4
    with HistoryFile(path) as history:
        assert told(history) == ["a", 1, "b", 2]


async def test_what_a_full_disk_has_not_taken_is_written_at_the_end(path):
    history = HistoryFile(path)
    with room(0):
        await history.gather(Coordinator(event("a")), 1)
    history.close()
    with HistoryFile(path) as history:
        assert told(history) == ["a"]


async def test_a_disk_that_stays_full_leaves_whole_records(path):
    with HistoryFile(path) as history:
        await history.gather(Coordinator(event("a")), 1)
        with room(path.stat().st_size + 10):
            await history.gather(Coordinator(event("b")), 2)
            history.close()
            assert history.failure
    with HistoryFile(path) as history:
        assert told(history) == ["a"]


def test_an_incarnation_waits_for_room(tmp_path):
    file = IncarnationFile(tmp_path / "incarnation")
    assert file.read() is None
    file.keep("1")
    with room(0):
        file.keep("2")
        assert file.failure
        file.save()
        assert IncarnationFile(tmp_path / "incarnation").read() == 1
    file.save()
    assert file.failure is None
    assert IncarnationFile(tmp_path / "incarnation").read() == 2
