"""Folders of runs: choosing one, keeping it to one process, and what stands in it."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from reknit.protocol.status import Record
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli.refusal import Refusal
from reknit_operator.planning.plan import Plan

RUNS: Final = Path("runs")
HISTORY: Final = "history.jsonl"
PLAN: Final = "plan.json"
MANIFEST: Final = "job.json"
REPORT: Final = "report.html"
MODEL: Final = "model.safetensors"
SESSION: Final = "session"
_LOCK: Final = "lock"

_RECORD: Final[TypeAdapter[Record]] = TypeAdapter(Record)


def choose(name: str, given: Path | None, *, resume: bool, runs: Path = RUNS) -> Path:
    """The folder for a run of job `name`: runs/NAME-N, or the one that is given.

    Raises:
        Refusal: there is no run to resume, or the folder holds one that was not asked for.
    """
    if given is None:
        last = _last(name, runs)
        if not resume:
            return runs / f"{name}-{last + 1}"
        if last == 0:
            raise Refusal([f"--resume: there is no run of {name} in {runs}"])
        return runs / f"{name}-{last}"
    holds_run = (given / HISTORY).exists() or (given / "checkpoints").exists()
    if resume and not holds_run:
        raise Refusal([f"--resume: there is no run in {given}"])
    if not resume and holds_run:
        raise Refusal([f"--run-dir: {given} holds a run already; add --resume to go on with it"])
    return given


def _last(name: str, runs: Path) -> int:
    """The highest number of a run of job `name`; 0 when there is none."""
    prefix = f"{name}-"
    found = [path.name.removeprefix(prefix) for path in runs.glob(f"{prefix}*")]
    return max((int(text) for text in found if text.isascii() and text.isdecimal()), default=0)


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from running in this folder; makes it if need be.

    A folder that was made for nothing, since the block raised before it put anything there, is
    removed.

    Raises:
        Refusal: another process runs there, or the folder cannot be written.
    """
    is_new = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / _LOCK).open("w")
    except OSError as error:
        raise Refusal([f"--run-dir: {run_dir} cannot be written ({error.strerror})"]) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal([f"--run-dir: another job runs in {run_dir}"]) from None
        try:
            yield
        except BaseException:
            if is_new and [path.name for path in run_dir.iterdir()] == [_LOCK]:
                (run_dir / _LOCK).unlink()
                run_dir.rmdir()
            raise


def is_claimed(run_dir: Path) -> bool:
    """Whether a process runs in this folder."""
    with suppress(FileNotFoundError), (run_dir / _LOCK).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def session_id(run_dir: Path) -> str | None:
    """The session that runs in this folder, by which its processes are found; None if none does."""
    with suppress(FileNotFoundError):
        if is_claimed(run_dir):
            return (run_dir / SESSION).read_text()
    return None


class HistoryTail:
    """Reads a run's history as it grows."""

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / HISTORY
        self._offset = 0

    def fresh(self) -> list[Record]:
        """The complete records since the last call; lines that are no records are left out."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._offset)
                added = stream.read()
        except FileNotFoundError:
            return []
        complete = added[: added.rfind(b"\n") + 1]
        self._offset += len(complete)
        records = []
        for line in complete.splitlines():
            with suppress(ValidationError):
                records.append(_RECORD.validate_json(line))
        return records


def describe(run_dir: Path, job: DistributedTrainingJob, plan: Plan) -> None:
    """Leaves the job and its plan in the folder, for the report."""
    item = job.to_object()
    item.pop("status", None)
    (run_dir / MANIFEST).write_text(json.dumps(item, indent=2) + "\n")
    (run_dir / PLAN).write_text(plan.model_dump_json(indent=2) + "\n")


def find_model(run_dir: Path) -> Path | None:
    """The weights that a finished job has left."""
    return next(iter(sorted(run_dir.rglob(MODEL))), None)
