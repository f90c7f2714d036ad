"""How processes and jobs end: the classes that every policy decides by."""

from enum import StrEnum
from typing import Final

from reknit.protocol.base import Message

MAX_TERMINATION_BYTES: Final = 4096
"""What a kubelet keeps of a container's termination message."""


MAX_EXCEPTION_CHARACTERS: Final = 1000
MAX_TRACEBACK_CHARACTERS: Final = 16_000

CUT: Final = "...\n"
"""Before what is left of a traceback."""


class ExitClass(StrEnum):
    """Why a process ended, as far as the remedy depends on it."""

    SUCCEEDED = "Succeeded"
    PROGRAM_ERROR = "ProgramError"
    CONFIGURATION = "Configuration"
    OUT_OF_MEMORY = "OutOfMemory"
    PREEMPTED = "Preempted"
    KILLED = "Killed"
    WRONG_NUMBERS = "WrongNumbers"
    """A rank computed what no other rank computes on the same data."""
    INFRASTRUCTURE = "Infrastructure"


AGENT_EXIT_CODES: Final = {
    ExitClass.SUCCEEDED: 0,
    ExitClass.PROGRAM_ERROR: 1,
    ExitClass.CONFIGURATION: 2,
    ExitClass.OUT_OF_MEMORY: 137,
    ExitClass.PREEMPTED: 143,
    ExitClass.KILLED: 137,
    ExitClass.WRONG_NUMBERS: 65,
    ExitClass.INFRASTRUCTURE: 70,
}
"""Exit status of an agent per class. A command's own exit status is passed on instead."""


def sendable(text: str, num_characters: int) -> str:
    """The end of a text, without what has no place in UTF-8: names of files can hold anything."""
    return text[-num_characters:].encode("utf-8", "replace").decode()


class ErrorReport(Message):
    """An exception of the user's code, with Reknit's own frames left out."""

    exception: str
    """The exception's class and text in one line, e.g. `ValueError: no such file`."""
    traceback: str
    """The formatted traceback as Python would print it had Reknit not been there."""
    step: int | None = None
    exit_class: ExitClass = ExitClass.PROGRAM_ERROR


class ProcessExit(Message):
    """How one process ended."""

    exit_class: ExitClass
    exit_code: int | None = None
    """Exit status, None when a signal ended the process."""
    signal: int | None = None
    error: ErrorReport | None = None


class Conclusion(Message):
    """The end of a job, as the coordinator advises and the agents write it for the operator."""

    exit_class: ExitClass
    message: str
    error: ErrorReport | None = None
    step: int | None = None
    unsaved: str | None = None
    """What is lost because the ranks left without a last checkpoint."""

    def termination_message(self) -> str:
        """JSON of at most `MAX_TERMINATION_BYTES` bytes; a long traceback keeps its end."""
        text = self.model_dump_json(exclude_none=True)
        for num_characters in (3000, 2000, 1000, 500, 250):
            if len(text.encode()) <= MAX_TERMINATION_BYTES:
                break
            text = self._shortened(num_characters).model_dump_json(exclude_none=True)
        return text

    def _shortened(self, num_characters: int) -> "Conclusion":
        short = {"message": self.message[:250], "unsaved": self.unsaved and self.unsaved[:250]}
        if self.error is None:
            return self.model_copy(update=short)
        tail = self.error.traceback[-num_characters:]
        if tail != self.error.traceback:
            tail = CUT + tail
        error = {"traceback": tail, "exception": self.error.exception[:250]}
        return self.model_copy(update={**short, "error": self.error.model_copy(update=error)})
