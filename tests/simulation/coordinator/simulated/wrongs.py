"""What can go wrong in a simulated job."""

from dataclasses import dataclass

from reknit.protocol.outcome import ExitClass


@dataclass(frozen=True)
class Fault:
    """Something goes wrong (or is asked for) at a moment."""

    at: float
    kind: str
    target: int = 0


@dataclass(frozen=True)
class Program:
    """An exception in the user's function: on which ranks, at which step, how often."""

    step: int
    ranks: frozenset[int] | None
    """None: on all of them."""
    times: int
    exit_class: ExitClass = ExitClass.PROGRAM_ERROR
