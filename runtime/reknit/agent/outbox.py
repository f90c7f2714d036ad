"""What is still to be said to the coordinator: pure."""

from collections import deque
from typing import Final

from reknit.protocol.agents import FromAgent, FromSlot, Heartbeat, Register
from reknit.protocol.ranks import Failed, Finished, StepDone

MAX_PROGRESS: Final = 512
"""Messages of progress that wait for a coordinator; the oldest ones are left out."""


class Outbox:
    """Messages in the order in which they are to be sent, bounded while nobody takes them.

    What must not be lost, the ends of processes and the steps above all, is part of the agent's
    state and said anew on every connection; so only other progress outlives a connection here.
    """

    def __init__(self, max_progress: int = MAX_PROGRESS) -> None:
        self._max_progress = max_progress
        self._messages: deque[FromAgent] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: FromAgent) -> None:
        """Puts a message last; `Register` begins a connection and goes first."""
        if isinstance(message, Register):
            self._messages = deque([message, *filter(_outlives, self._messages)])
            return
        if isinstance(message, Heartbeat):
            # An older one that still waits has nothing to add.
            self._drop([old for old in self._messages if isinstance(old, Heartbeat)])
        self._messages.append(message)
        progress = [old for old in self._messages if _is_progress(old)]
        self._drop(progress[: max(0, len(progress) - self._max_progress)])

    def take(self) -> FromAgent | None:
        """The next message; None when there is none."""
        return self._messages.popleft() if self._messages else None

    def put_back(self, message: FromAgent) -> None:
        """A message that could not be sent becomes the next one again."""
        self._messages.appendleft(message)

    def _drop(self, messages: list[FromAgent]) -> None:
        for message in messages:
            self._messages.remove(message)


def _is_progress(message: FromAgent) -> bool:
    return isinstance(message, FromSlot) and not isinstance(message.message, Finished | Failed)


def _outlives(message: FromAgent) -> bool:
    return (
        isinstance(message, FromSlot)
        and _is_progress(message)
        and not isinstance(message.message, StepDone)
    )
