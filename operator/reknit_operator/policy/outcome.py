"""How a job ends."""

from dataclasses import dataclass

from reknit.protocol.outcome import Conclusion
from reknit_operator.constants import Reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job: why, in one word and in a sentence."""

    reason: Reason
    message: str
    traceback: str | None = None
    step: int | None = None
    """Committed steps at the end, if an agent said so."""

    @property
    def succeeded(self) -> bool:
        """Whether the job did what it was for."""
        return self.reason is Reason.COMPLETED


def concluded(reason: Reason, conclusion: Conclusion) -> Outcome:
    """The outcome that an agent's termination message describes."""
    traceback = conclusion.error.traceback if conclusion.error else None
    return Outcome(reason, conclusion.message, traceback, conclusion.step)
