from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from reknit.checkpoint.writer import WriteProgress
from reknit.protocol.settings import CheckpointSettings
from reknit.state.description import LocalState
from reknit.trainer import checkpointing
from reknit.trainer.checkpointing import CheckpointCycle, Outcome, Stage, outcome
from reknit.trainer.gate import Vote

STATE = LocalState({}, [], [])


@pytest.mark.parametrize(
    ("stage", "votes", "expected"),
    [
        (Stage.IDLE, Vote(durable=2, failed=1), (Stage.IDLE, Outcome.NONE)),
        (Stage.WRITING, Vote(durable=1), (Stage.WRITING, Outcome.NONE)),
        (Stage.WRITING, Vote(durable=2), (Stage.COMMITTING, Outcome.ALL_DURABLE)),
        (Stage.WRITING, Vote(durable=1, failed=1), (Stage.IDLE, Outcome.FAILED)),
        (Stage.COMMITTING, Vote(durable=2), (Stage.COMMITTING, Outcome.NONE)),
        (Stage.COMMITTING, Vote(durable=2, committed=1), (Stage.IDLE, Outcome.COMMITTED)),
        (Stage.COMMITTING, Vote(durable=2, failed=1), (Stage.IDLE, Outcome.FAILED)),
    ],
)
def test_the_sums_of_the_votes_decide(stage, votes, expected):
    assert outcome(stage, votes, num_ranks=2) == expected


@dataclass
class StubCheckpointer:
    """Gets its progress from the test."""

    busy: int = 0
    """Calls of `begin` that find an earlier write unfinished."""
    now: WriteProgress | None = None
    calls: list[str] = field(default_factory=list)

    def begin(self, version: int, _: LocalState) -> bool:
        if self.busy:
            self.busy -= 1
            return False
        self.calls.append(f"begin {version}")
        self.now = WriteProgress(version)
        return True

    def progress(self) -> WriteProgress | None:
        return self.now

    def commit(self, version: int) -> None:
        self.calls.append(f"commit {version}")

    def abandon(self, version: int) -> None:
        self.calls.append(f"abandon {version}")
        self.now = None

    def wait(self, _: timedelta) -> bool:
        self.calls.append("wait")
        return True

    def location(self, version: int) -> Path:
        return Path(f"/checkpoints/{version}")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: Clock.now)
    return Clock


def make_cycle(group, checkpointer, *, every_steps=None, every_seconds=None, durable=None):
    settings = CheckpointSettings(path="/", every_steps=every_steps, every_seconds=every_seconds)
    return CheckpointCycle(settings, checkpointer, group, durable)


def test_a_checkpoint_goes_through_all_stages(stub_group, clock):
    checkpointer = StubCheckpointer()
    cycle = make_cycle(stub_group(world_size=2), checkpointer, every_steps=2)
    cycle.heard(cycle.vote(), 1)
    assert not cycle.wants_to_begin()
    cycle.heard(cycle.vote(), 2)
    assert cycle.wants_to_begin()
    cycle.begin(2, STATE)
    assert not cycle.wants_to_begin()
    assert cycle.vote() == Vote()
    checkpointer.now = WriteProgress(2, durable=True)
    assert cycle.vote() == Vote(durable=1)
    cycle.heard(Vote(durable=1), 3)
    cycle.heard(Vote(durable=2), 4)
    assert checkpointer.calls == ["begin 2", "commit 2"]
    assert not cycle.wants_to_begin(), "version 4 must wait for version 2"
    checkpointer.now = WriteProgress(2, durable=True, committed=True)
    clock.now += 3
    cycle.heard(Vote(durable=2, committed=1), 5)
    (report,) = cycle.reports()
    assert (report.version, report.location, report.error) == (2, "/checkpoints/2", None)
    assert report.seconds == 3
    assert cycle.durable_version == 2
    assert cycle.reports() == []
    assert cycle.wants_to_begin(), "version 4 was due meanwhile"


def test_only_rank_0_commits(stub_group):
    checkpointer = StubCheckpointer()
    cycle = make_cycle(stub_group(rank=1, world_size=2), checkpointer)
    cycle.begin(2, STATE)
    cycle.heard(Vote(durable=2), 3)
    assert checkpointer.calls == ["begin 2"]


def test_rank_0_s_clock_decides_for_all(stub_group, clock):
    cycle = make_cycle(stub_group(), StubCheckpointer(), every_seconds=60)
    other = make_cycle(stub_group(rank=1), StubCheckpointer(), every_seconds=60)
    assert cycle.vote() == Vote()
    clock.now += 60
    assert cycle.vote() == Vote(due=1)
    assert other.vote() == Vote()
    other.heard(Vote(due=1), 7)
    assert other.wants_to_begin()
    cycle.begin(7, STATE)
    assert cycle.vote() == Vote(), "the time counts from the last beginning"


def test_a_failure_on_another_rank_is_told_with_its_reason(stub_group):
    group = stub_group(world_size=2)
    theirs = stub_group(rank=1, world_size=2, store=group.store)
    writers = [StubCheckpointer(), StubCheckpointer()]
    cycles = [make_cycle(group, writers[0]), make_cycle(theirs, writers[1])]
    for cycle in cycles:
        cycle.begin(3, STATE)
    writers[1].now = WriteProgress(3, error="no space left")
    assert cycles[1].vote() == Vote(failed=1)
    for cycle in cycles:
        cycle.heard(Vote(failed=1), 4)
    assert [writer.calls[-1] for writer in writers] == ["abandon 3"] * 2
    (report,) = cycles[0].reports()
    assert report.error == "no space left"
    assert cycles[0].durable_version is None


def test_a_durable_version_is_not_written_again(stub_group):
    checkpointer = StubCheckpointer()
    cycle = make_cycle(stub_group(), checkpointer, durable=5)
    cycle.begin(5, STATE)
    cycle.flush()
    assert checkpointer.calls == []


def test_beginning_waits_for_what_is_still_written(stub_group):
    checkpointer = StubCheckpointer(busy=2)
    make_cycle(stub_group(), checkpointer).begin(5, STATE)
    assert checkpointer.calls == ["wait", "wait", "begin 5"]


def test_flushing_goes_on_until_all_ranks_are_through(stub_group):
    group = stub_group(
        rank=1,
        world_size=2,
        others=[Vote(), Vote(durable=1), Vote(durable=1), Vote(durable=1, committed=1)],
    )
    checkpointer = StubCheckpointer()
    cycle = make_cycle(group, checkpointer)
    cycle.begin(5, STATE)
    checkpointer.now = WriteProgress(5, durable=True)
    cycle.flush()
    assert group.others == []
    assert cycle.durable_version == 5
    cycle.close()
    assert checkpointer.calls[-1] == "close"
