"""What a person is told about an exception that left the user's function."""

import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from reknit.comm.loss import is_lost_peer
from reknit.errors import ConfigurationError
from reknit.protocol.outcome import (
    MAX_EXCEPTION_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    ErrorReport,
    ExitClass,
    sendable,
)
from reknit.trainer.errors import CheckpointError, WrongNumbersError


def report(error: BaseException, step: int | None) -> ErrorReport:
    """The exception as Python would show it had Reknit not been there.

    What is not the code's is told by its sentence alone.
    """
    if isinstance(error, ConfigurationError | WrongNumbersError):
        return ErrorReport(
            exception=sendable(str(error), MAX_EXCEPTION_CHARACTERS),
            traceback=sendable(str(error), MAX_TRACEBACK_CHARACTERS),
            step=step,
            exit_class=classify(error),
        )
    trimmed = traceback.TracebackException.from_exception(error)
    _trim(trimmed, seen=set())
    last_line = list(trimmed.format_exception_only())[-1]
    return ErrorReport(
        exception=sendable(
            " ".join(last_line.split())[:MAX_EXCEPTION_CHARACTERS], MAX_EXCEPTION_CHARACTERS
        ),
        traceback=sendable("".join(trimmed.format()), MAX_TRACEBACK_CHARACTERS),
        step=step,
        exit_class=classify(error),
    )


def classify(error: BaseException) -> ExitClass:
    """Whose the exception is."""
    if isinstance(error, ConfigurationError):
        return ExitClass.CONFIGURATION
    if isinstance(error, WrongNumbersError):
        return ExitClass.WRONG_NUMBERS
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text
    ):
        return ExitClass.OUT_OF_MEMORY
    if isinstance(error, CheckpointError) or is_lost_peer(error):
        return ExitClass.INFRASTRUCTURE
    return ExitClass.PROGRAM_ERROR


def place_of(error: BaseException) -> str | None:
    """The innermost line that is of no library, like `train.py, line 12`; None if there is none."""
    installed = (sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib"))
    libraries = [folder for folder in (*map(Path, installed), _folder("reknit")) if folder]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not any(path.is_relative_to(folder) for folder in libraries):
            return f"{path.name}, line {frame.lineno}"
    return None


def _trim(error: traceback.TracebackException, seen: set[int]) -> None:
    """Drops Reknit's frames from an exception and those it was caused by."""
    if id(error) in seen:
        return
    seen.add(id(error))
    error.stack = traceback.StackSummary.from_list(list(_kept(error.stack)))
    for other in (error.__cause__, error.__context__, *(error.exceptions or ())):
        if other is not None:
            _trim(other, seen)


def _kept(frames: Iterable[traceback.FrameSummary]) -> Iterator[traceback.FrameSummary]:
    """The user's frames, and those of libraries that the user's code called by itself."""
    ours = _folder("reknit")
    wrappers = [folder for folder in (_folder("torch"), _folder("deepspeed")) if folder]
    inside = True
    for frame in frames:
        if frame.filename.startswith("<frozen"):
            continue
        path = Path(frame.filename)
        if ours is not None and path.is_relative_to(ours):
            inside = True
        elif not inside or not any(path.is_relative_to(folder) for folder in wrappers):
            # Between Reknit's frames and the user's next one, torch and DeepSpeed run on behalf
            # of Reknit.
            inside = False
            yield frame


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
