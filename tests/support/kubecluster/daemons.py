"""Programs that outlive the command that has started them, and can be ended by a later one."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SECONDS_TO_END = 10


class Daemons:
    """The running programs of one folder; each has a log and a file that says which process it is.

    Args:
        folder: takes `log/NAME.log` and `run/NAME`.
        programs: folder with the programs, which may start each other.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self._logs = folder / "log"
        self._marks = folder / "run"
        self._programs = programs

    @property
    def environment(self) -> dict[str, str]:
        """With the cluster's programs first in PATH."""
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        # pytest's terminal settings and Go's memory limits are no business of theirs.
        return {**os.environ, "PATH": path}

    def start(self, name: str, program: str, flags: Mapping[str, object] | None = None) -> None:
        """Starts `program` with `--flag=value` for each flag, in a session of its own."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._marks.mkdir(parents=True, exist_ok=True)
        options = [f"--{flag}={value}" for flag, value in (flags or {}).items()]
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [self._programs / program, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self._logs,
                env=self.environment,
                start_new_session=True,
            )
        (self._marks / name).write_text(f"{process.pid} {started_at(process.pid)}")

    def log(self, name: str) -> str:
        """The end of what it has said, for an error message."""
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-15:])

    def names(self) -> list[str]:
        """Of all that were started and not ended."""
        return sorted(path.name for path in self._marks.glob("*"))

    def pid(self, name: str) -> int | None:
        """The process, unless it has ended; a number that was given to another one does not
        count."""
        try:
            pid, start = (self._marks / name).read_text().split()
        except FileNotFoundError:
            return None
        return int(pid) if started_at(int(pid)) == start else None

    def end(self, names: Iterable[str], number: signal.Signals = signal.SIGTERM) -> None:
        """Sends all of them a signal and waits; who does not end in time is killed."""
        names = list(names)
        with contextlib.ExitStack() as stack:
            waiting = []
            for name in names:
                if (pid := self.pid(name)) is not None:
                    waiting.append(stack.enter_context(_handle(pid)))
            for handle in waiting:
                _send(handle, number)
            for handle in waiting:
                if not _has_ended(handle, SECONDS_TO_END):
                    _send(handle, signal.SIGKILL)
                    _has_ended(handle, SECONDS_TO_END)
        for name in names:
            (self._marks / name).unlink(missing_ok=True)


def kill(pids: Iterable[int]) -> None:
    """Kills processes and waits until they have ended."""
    with contextlib.ExitStack() as stack:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handles.append(stack.enter_context(_handle(pid)))
        for handle in handles:
            _send(handle, signal.SIGKILL)
        for handle in handles:
            _has_ended(handle, SECONDS_TO_END)


def started_at(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None if there is no such process or it is
    a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if fields[0] == "Z" else fields[19]


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _send(handle: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _has_ended(handle: int, seconds: float) -> bool:
    return bool(select.select([handle], [], [], seconds)[0])
