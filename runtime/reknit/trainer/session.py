"""A rank's way from one generation to the next, in one process."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, TypeVar

import torch

from reknit.comm.group import RankGroup, abandon_groups, rank_device
from reknit.comm.loss import is_lost_peer
from reknit.comm.severing import Severing
from reknit.errors import StoppedError
from reknit.layout import Degrees
from reknit.protocol.base import Generation
from reknit.protocol.ranks import Assign, Left, Parked, PeerLost
from reknit.trainer.link import Link

T = TypeVar("T")

_AGAIN: Final = timedelta(milliseconds=10)
"""Between two attempts to free the training thread: it may just be opening one more connection."""
_NONE: Final = Generation(incarnation=-1, counter=0)


class Session:
    """Takes places, joins process groups, and gets out of those whose generation has ended.

    Args:
        link: the line to the agent.
        degrees: how the axes of parallelism divide the world.
    """

    def __init__(self, link: Link, degrees: Degrees | None = None) -> None:
        self._link = link
        self._degrees = degrees or Degrees()
        self._assigned: tuple[Assign, socket.socket | None] | None = None
        self._group: RankGroup | None = None
        self._severing: Severing | None = None
        self._left = _NONE
        """The newest generation that the training thread has left."""
        self.join_seconds = 0.0
        """What the last joining took."""
        self.enter: Callable[[], None] = lambda: None
        """Called in each new generation once its group stands; may be broken off like any work."""
        self.version: Callable[[], int] = lambda: 0
        """The version that this rank holds, for what the agent is told."""
        self.lost: Callable[[], str | None] = lambda: None
        """A sentence about what is lost if the rank has to leave without a group, if anything."""
        self._entered = False

    @property
    def place(self) -> Assign:
        """This rank's place; waits for the first one.

        Raises:
            StoppedError: the rank's time is over.
        """
        if self._assigned is None:
            if not self._link.has_place:
                self._link.tell(Parked())
            self._assigned = self._take()
        return self._assigned[0]

    @property
    def has_place(self) -> bool:
        """Whether the place is known without waiting."""
        return self._assigned is not None or self._link.has_place

    @property
    def generation(self) -> Generation | None:
        """Of the place that is held or was held last."""
        return None if self._assigned is None else self._assigned[0].generation

    @property
    def group(self) -> RankGroup:
        """The process group of the present generation; inside of `survive` only."""
        assert self._group is not None, "the rank is in no generation"
        return self._group

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return rank_device(self.place.local_rank)

    def survive(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is begun anew whenever its generation ends meanwhile.

        Raises:
            StoppedError: the rank's time is over.
        """
        while True:
            try:
                self._be_ready()
                return work()
            except Exception as error:
                if not self._is_broken(error):
                    raise
            # Outside of the except block: what the traceback holds would outlive the generation.
            self.leave()

    def check(self) -> None:
        """For long work without communication.

        Raises:
            ConnectionAbortedError: the generation has ended meanwhile.
        """
        generation = self.place.generation
        if self._link.is_aborted(generation):
            raise ConnectionAbortedError(f"generation {generation} has ended")

    def leave(self) -> None:
        """Gets out of a generation that has ended, and says so."""
        assert self._assigned is not None
        generation = self._assigned[0].generation
        if self._group is not None:
            self._group.abandon()
        else:
            abandon_groups()
        self._group, self._entered = None, False
        self._left = generation
        self._link.tell(Left(generation=generation, step=self.version()))
        self._assigned = self._take()

    def sever(self, generation: Generation) -> None:
        """Frees the training thread from everything in this generation; called by another one."""
        thread = threading.Thread(target=self._sever, args=(generation,), daemon=True)
        thread.start()

    def close(self) -> None:
        """Leaves the process group for good."""
        if self._group is not None:
            self._group.close()

    def _sever(self, generation: Generation) -> None:
        while self._left.key() < generation.key():
            severing = self._severing
            if severing is not None:
                severing.sever()
            time.sleep(_AGAIN.total_seconds())

    def _be_ready(self) -> None:
        if self._group is None:
            assign, listener = self.place, self._listener()
            start = time.monotonic()
            self._severing = Severing(self.device)
            self.check()
            self._group = RankGroup(
                assign,
                device=self.device,
                degrees=self._degrees,
                store_listener=listener,
                severing=self._severing,
            )
            self.join_seconds = time.monotonic() - start
        if not self._entered:
            self.enter()
            self._group.settle()
            self._entered = True

    def _listener(self) -> socket.socket | None:
        assert self._assigned is not None
        return self._assigned[1]

    def _is_broken(self, error: Exception) -> bool:
        """Whether the end of the generation explains the error.

        A broken connection that nobody has explained is told, and the explanation waited for.
        """
        generation = self.place.generation
        if self._link.is_aborted(generation):
            return True
        if not is_lost_peer(error):
            return False
        self._link.tell(PeerLost(generation=generation))
        return self._link.wait_for_abort(generation)

    def _take(self) -> tuple[Assign, socket.socket | None]:
        assigned = self._link.take_place()
        if assigned is None:
            raise StoppedError(self.lost())
        return assigned
