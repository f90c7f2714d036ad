"""What training code may say to the agent, and hear from it."""

from typing import Protocol

from reknit.protocol.ranks import FromRank, Phase


class Link(Protocol):
    """The agent, as the training thread sees it; nothing here blocks."""

    @property
    def leaving(self) -> bool:
        """Whether the rank has been told to leave."""
        ...

    def tell(self, message: FromRank) -> None:
        """Sends a message, after all earlier ones."""
        ...

    def enter(self, phase: Phase, step: int) -> None:
        """Declares what the rank is doing, for its heartbeats."""
        ...
