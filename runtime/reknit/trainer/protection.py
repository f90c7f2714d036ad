"""What a step does for the copies of shards, as far as the step must know it."""

from typing import Protocol

from reknit.state.description import LocalState


class Protecting(Protocol):
    """The copies of other ranks' shards on this rank, and those of its own on others."""

    def begin(self) -> None:
        """Begins to send the reduced gradients of the own shard; they must not change yet."""
        ...

    def prepare(self) -> None:
        """Waits until they are sent, and those of the copies are here."""
        ...

    def update(self, factor: float | None) -> None:
        """Updates the copies with what was received, times `factor`; None leaves the update out.

        Communicates with nobody. Comes before the originals' update.
        """
        ...

    def renew(self) -> None:
        """Makes those copies anew that cannot follow an update; after it, all ranks together."""
        ...

    def check(self, version: int) -> tuple[int, ...]:
        """Now and then, the ranks whose copy differs from its original; that is made anew.

        All ranks together, after the update that led to `version`.
        """
        ...

    def held(self) -> dict[str, LocalState]:
        """The copies as parts of the state, by a name for each."""
        ...


class NoProtection:
    """Nothing is copied: other ranks hold the same, or it was not asked for."""

    def begin(self) -> None:
        """Nothing to send."""

    def prepare(self) -> None:
        """Nothing to wait for."""

    def update(self, factor: float | None) -> None:
        """Nothing to update."""

    def renew(self) -> None:
        """Nothing to copy."""

    def check(self, version: int) -> tuple[int, ...]:
        """Nothing to compare."""
        del version
        return ()

    def held(self) -> dict[str, LocalState]:
        """Nothing."""
        return {}
