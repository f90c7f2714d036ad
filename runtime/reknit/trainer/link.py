"""What training code may say to the agent, and hear from it."""

import socket
from collections.abc import Callable
from typing import Protocol

from reknit.protocol.base import Generation
from reknit.protocol.ranks import Assign, FromRank, Phase
from reknit.protocol.servers import Leases, Views


class Link(Protocol):
    """The agent, as the training thread sees it; only what is called wait or take blocks."""

    @property
    def leaving(self) -> bool:
        """Whether the rank has been told to leave."""
        ...

    @property
    def regrouping(self) -> bool:
        """Whether the rank was told to leave its generation at a step boundary, and to stay."""
        ...

    @property
    def has_place(self) -> bool:
        """Whether a place is waiting to be taken."""
        ...

    def is_aborted(self, generation: Generation) -> bool:
        """Whether this generation was to be left."""
        ...

    def tell(self, message: FromRank) -> None:
        """Sends a message, after all earlier ones."""
        ...

    def enter(self, phase: Phase, step: int) -> None:
        """Declares what the rank is doing, for its heartbeats."""
        ...

    def reach(self, place: int) -> None:
        """Declares how far the rank has come within the step, for its heartbeats."""
        ...

    def follow(self, hear: Callable[[Views | Leases], None]) -> None:
        """From now on `hear` is called with the latest views, and with all that come later."""
        ...

    def take_place(self) -> tuple[Assign, socket.socket | None] | None:
        """Waits for a place; None when the rank's time is over instead."""
        ...

    def wait_for_abort(self, generation: Generation) -> bool:
        """Waits until this generation is to be left; False if the rank's time is over instead."""
        ...
