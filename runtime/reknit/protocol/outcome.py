"""How processes and jobs end: the classes that every policy decides by."""

from enum import StrEnum
from typing import Final

from reknit.protocol.base import Message

MAX_TERMINATION_BYTES: Final = 4096
"""What a kubelet keeps of a container's termination message."""


class ExitClass(StrEnum):
    """Why a process ended, as far as the remedy depends on it."""

    SUCCEEDED = "Succeeded"
    PROGRAM_ERROR = "ProgramError"
    CONFIGURATION = "Configuration"
    OUT_OF_MEMORY = "OutOfMemory"
    PREEMPTED = "Preempted"
    KILLED = "Killed"
    INFRASTRUCTURE = "Infrastructure"


AGENT_EXIT_CODES: Final = {
    ExitClass.SUCCEEDED: 0,
    ExitClass.PROGRAM_ERROR: 1,
    ExitClass.CONFIGURATION: 2,
    ExitClass.OUT_OF_MEMORY: 137,
    ExitClass.PREEMPTED: 143,
    ExitClass.KILLED: 137,
    ExitClass.INFRASTRUCTURE: 70,
}
"""Exit status of an agent per class. A command's own exit status is passed on instead."""


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

    def termination_message(self) -> str:
        """JSON of at most `MAX_TERMINATION_BYTES` bytes; a long traceback keeps its end."""
        text = self.model_dump_json(exclude_none=True)
        excess = len(text.encode()) - MAX_TERMINATION_BYTES
        if excess <= 0:
            return text
        if self.error is None:
            return self.model_copy(update={"message": self.message[:512]}).model_dump_json()
        kept = self.error.traceback[max(0, excess + 64) :] if excess < 3000 else ""
        kept = kept or self.error.traceback[-1000:]
        error = self.error.model_copy(
            update={"traceback": "...\n" + kept, "exception": self.error.exception[:512]}
        )
        shorter = self.model_copy(update={"error": error, "message": self.message[:512]})
        return shorter.model_dump_json(exclude_none=True)
