"""How a process' end is classified: pure."""

from signal import SIGKILL, SIGTERM, Signals
from typing import Final

from reknit.protocol.outcome import AGENT_EXIT_CODES, ErrorReport, ExitClass, ProcessExit

SHELL_SIGNAL_BASE: Final = 128
"""A shell whose command dies of signal n exits with 128 + n."""


def classify(
    *,
    exit_code: int | None,
    signal: int | None,
    error: ErrorReport | None,
    finished: bool,
    is_command: bool,
    out_of_memory: bool,
    leaving: bool,
) -> ProcessExit | None:
    """Why the process ended; None when that is a rank's or a command's regular end.

    Args:
        exit_code: exit status, None when a signal ended the process.
        signal: the number of that signal.
        error: what the rank itself said about its failure.
        finished: the rank has said that all its work is durable.
        is_command: the process is a user's program that says nothing but its exit status.
        out_of_memory: the kernel has just killed a process of this pod for memory.
        leaving: the pod or the generation was told to leave, and a command got SIGTERM for it.
    """
    if exit_code == 0 and error is None and (is_command or finished):
        return None
    number = _signal(exit_code, signal, is_command=is_command)
    if error is not None:
        exit_class = error.exit_class
    elif number == SIGKILL and out_of_memory:
        exit_class = ExitClass.OUT_OF_MEMORY
    elif number == SIGTERM and leaving:
        exit_class = ExitClass.PREEMPTED
    elif number is not None:
        exit_class = ExitClass.KILLED
    elif not is_command and exit_code == AGENT_EXIT_CODES[ExitClass.INFRASTRUCTURE]:
        exit_class = ExitClass.INFRASTRUCTURE
    else:
        exit_class = ExitClass.PROGRAM_ERROR
        error = _silent_exit(exit_code)
    return ProcessExit(exit_class=exit_class, exit_code=exit_code, signal=signal, error=error)


def describe(exit_: ProcessExit) -> str:
    """One clause about the end of a process, for logs and messages."""
    if exit_.error is not None:
        return exit_.error.exception
    if exit_.signal is not None:
        names = {number.value: number.name for number in Signals}
        name = names.get(exit_.signal, f"signal {exit_.signal}")
        reason = ", out of memory" if exit_.exit_class is ExitClass.OUT_OF_MEMORY else ""
        return f"ended by {name}{reason}"
    return f"exit status {exit_.exit_code}"


def _signal(exit_code: int | None, signal: int | None, *, is_command: bool) -> int | None:
    """The signal that ended the process, or the one that ended a shell's command inside it."""
    if signal is not None or not is_command or exit_code is None:
        return signal
    number = exit_code - SHELL_SIGNAL_BASE
    return number if number in {known.value for known in Signals} else None


def _silent_exit(exit_code: int | None) -> ErrorReport:
    """For a process that ended by itself and did not say why."""
    text = f"the process ended with exit status {exit_code}"
    if exit_code == 0:
        text += " before training had finished"
    return ErrorReport(exception=text, traceback=text)
