"""Records of an imaginary run, a session that plays them, and the command line in this process."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reknit.protocol.base import Generation
from reknit.protocol.inspection import Inspection, ParameterInfo
from reknit.protocol.status import CoordinatorStatus, EventRecord, History, Record, StepRecord
from reknit_operator.api.load import load_manifest
from reknit_operator.api.types import Condition, DistributedTrainingJob, JobStatus
from reknit_operator.cli.main import main

START = 1_760_000_000.0

MANIFEST = """
apiVersion: reknit.dev/v1alpha1
kind: DistributedTrainingJob
metadata: {name: tiny}
spec:
  entrypoint: {function: "tiny:train", config: {steps: 4}}
  batch: {global: 8, micro: 2}
  workers: {replicas: 2}
"""


def step(number: int, at: float, *, generation: int = 1, **changes: Any) -> StepRecord:
    """A step of eight samples; the loss falls."""
    values: dict[str, Any] = {
        "time": START + at,
        "generation": Generation(incarnation=1, counter=generation),
        "step": number,
        "total_steps": 10,
        "samples": 8,
        "metrics": {"loss": 4.0 / number},
        "seconds": {"forward": 0.02, "backward": 0.03, "total": 0.1},
        "memory_bytes": {0: 2**30, 1: 2**29},
    }
    return StepRecord(**{**values, **changes})


def event(reason: str, at: float, *, generation: int = 1, **changes: Any) -> EventRecord:
    """Something that happened."""
    values: dict[str, Any] = {
        "time": START + at,
        "reason": reason,
        "message": f"{reason} it is.",
        "generation": Generation(incarnation=1, counter=generation),
    }
    return EventRecord(**{**values, **changes})


def faulty_run() -> list[Record]:
    """Five steps, a fault, back to step 4, and on to step 10."""
    return [
        event("GenerationBegun", 0, figures={"ranks": 2}),
        event("Resumed", 1, step=0),
        *(step(number, 1 + number) for number in range(1, 5)),
        event("Checkpointed", 5, step=4),
        step(5, 6),
        event("RankExited", 6.5, rank=1, detail="<killed & gone>"),
        event("GenerationBegun", 7, generation=2, figures={"ranks": 2}),
        event("Resumed", 7.5, generation=2, step=4),
        step(5, 8, generation=2, metrics={"loss": 0.7}),
        step(6, 9, generation=2),
        event("RecoveryFinished", 9, generation=2, step=6, figures={"total": 2.5}),
        *(step(number, 3 + number, generation=2) for number in range(7, 11)),
        event("Evaluated", 13.5, generation=2, step=10, figures={"loss": 0.5}),
        event("Concluded", 14, step=10, message="The job is concluded as Succeeded: done."),
    ]


@pytest.fixture
def records() -> list[Record]:
    return faulty_run()


@pytest.fixture
def make_step() -> Callable[..., StepRecord]:
    return step


@pytest.fixture
def make_event() -> Callable[..., EventRecord]:
    return event


@pytest.fixture
def job() -> DistributedTrainingJob:
    return load_manifest(MANIFEST)


@pytest.fixture
def inspection() -> Inspection:
    weight = ParameterInfo(name="weight", shape=(30, 10), dtype="float32", group=0)
    return Inspection(
        parameters=(weight,),
        optimizer="torch.optim.sgd.SGD",
        num_samples=100,
        total_steps=4,
    )


def finished(
    job: DistributedTrainingJob, kind: str, reason: str, **status: Any
) -> DistributedTrainingJob:
    """The job with a final condition."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    condition = Condition(type=kind, status="True", reason=reason, last_transition_time=now)
    return job.model_copy(update={"status": JobStatus(conditions=(condition,), **status)})


@pytest.fixture
def with_condition() -> Callable[..., DistributedTrainingJob]:
    return finished


@dataclass
class FakeSession:
    """Plays records, `stride` at each look, and then ends with `end`, unless stopped before."""

    script: Sequence[Record]
    end: DistributedTrainingJob
    start_error: Exception | None = None
    endless: bool = False
    stride: int = 1
    before: Sequence[Record] = ()
    """What an earlier run has left, told at the first look."""
    killed: list[tuple[int, int]] = field(default_factory=list)
    """(rank, records played until then)."""
    stopped_with: timedelta | None = None
    closed: int = 0
    played: int = 0
    failures: Sequence[str | None] = (None,)
    """What of its folder cannot be written, at each look; the last one stays."""
    unwritten: int = 0

    def __post_init__(self) -> None:
        self._over = asyncio.Event()
        self.looked = asyncio.Event()
        self.recalled = False

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error

    async def status(self) -> CoordinatorStatus | None:
        return None

    def records(self, after: int) -> History:
        if not self.recalled:
            self.recalled = True
            self.script = (*self.before, *self.script)
            self.played = len(self.before)
            return History(records=tuple(self.before), next=self.played)
        self.played = min(self.played + self.stride, len(self.script))
        if self.played == len(self.script) and not self.endless:
            self._over.set()
        self.looked.set()
        return History(records=tuple(self.script[after : self.played]), next=self.played)

    def failure(self) -> str | None:
        now, *later = self.failures
        self.failures = later or [now]
        return now

    def num_unwritten(self) -> int:
        return self.unwritten

    async def wait(self) -> DistributedTrainingJob:
        await self._over.wait()
        return self.end

    async def stop(self, grace: timedelta) -> None:
        self.stopped_with = grace
        self._over.set()

    async def kill_rank(self, rank: int) -> bool:
        self.killed.append((rank, self.played))
        return True

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def make_session() -> type[FakeSession]:
    return FakeSession


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def reknit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ended]:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["reknit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int | None)
        captured = capsys.readouterr()
        return Ended(code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A job.yaml, without the module that it names."""
    file = tmp_path / "job.yaml"
    file.write_text(MANIFEST)
    return file
