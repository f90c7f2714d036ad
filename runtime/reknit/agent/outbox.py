"""What is still to be said to the coordinator: pure."""

from collections import deque
from typing import Final, NamedTuple

from reknit.protocol.agents import FromAgent, FromSlot, Heartbeat, Register
from reknit.protocol.ranks import Failed, Finished, StepDone

MAX_PROGRESS: Final = 512
"""Messages of progress that wait for a coordinator; the oldest ones are left out."""


class _Waiting(NamedTuple):
    message: FromAgent
    since: float


class Outbox:
    """Messages in the order in which they are to be sent, bounded while nobody takes them.

    What must not be lost, the ends of processes and the steps above all, is part of the agent's
    state and said anew on every connection; so only other progress outlives a connection here.

    All times are seconds of one monotonic clock.
    """

    def __init__(self, max_progress: int = MAX_PROGRESS) -> None:
        self._max_progress = max_progress
        self._waiting: deque[_Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: FromAgent, now: float) -> None:
        """Puts a message last; `Register` begins a connection and goes first."""
        new = _Waiting(message, now)
        if isinstance(message, Register):
            self._waiting = deque([new, *(old for old in self._waiting if _outlives(old.message))])
            return
        if isinstance(message, Heartbeat):
            # An older one that still waits has nothing to add.
            self._drop([old for old in self._waiting if isinstance(old.message, Heartbeat)])
        self._waiting.append(new)
        progress = [old for old in self._waiting if _is_progress(old.message)]
        self._drop(progress[: max(0, len(progress) - self._max_progress)])

    def take(self, now: float) -> FromAgent | None:
        """The next message, a step with the time that it has waited; None when there is none."""
        if not self._waiting:
            return None
        message, since = self._waiting.popleft()
        if isinstance(message, FromSlot) and is_patient(message):
            return message.model_copy(update={"waited": message.waited + now - since})
        return message

    def put_back(self, message: FromAgent, now: float) -> None:
        """A message that could not be sent becomes the next one again."""
        self._waiting.appendleft(_Waiting(message, now))

    def _drop(self, old: list[_Waiting]) -> None:
        for waiting in old:
            self._waiting.remove(waiting)


def is_patient(message: FromAgent) -> bool:
    """Whether it may wait for the next message, at most until the next heartbeat.

    Nothing is decided by a step, and a process that is woken for each takes time from the ranks.
    """
    return isinstance(message, FromSlot) and isinstance(message.message, StepDone)


def _is_progress(message: FromAgent) -> bool:
    return isinstance(message, FromSlot) and not isinstance(message.message, Finished | Failed)


def _outlives(message: FromAgent) -> bool:
    return (
        isinstance(message, FromSlot)
        and _is_progress(message)
        and not isinstance(message.message, StepDone)
    )
