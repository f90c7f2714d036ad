"""The life of a rank process: takes its place, runs the user's function, tells how it ended."""

import socket
from datetime import timedelta
from typing import Final

from reknit import userfunction
from reknit.comm.group import RankGroup, rank_device
from reknit.errors import StoppedError
from reknit.protocol.outcome import AGENT_EXIT_CODES
from reknit.protocol.ranks import Assign, Failed, Finished, Phase
from reknit.protocol.settings import JobSettings
from reknit.rank.channel import Channel
from reknit.rank.failure import is_lost_peer, report
from reknit.trainer.job import RankJob

_GRACE: Final = timedelta(seconds=5)
"""How long a rank that lost a peer waits to be ended before it says so itself."""


def run(settings: JobSettings, channel: socket.socket, store_listener: socket.socket | None) -> int:
    """Runs one rank of one generation; returns the process's exit status.

    0: finished or left, and released. 1: an exception of the user's code, or the agent is gone;
    2: a wrong configuration.

    Args:
        settings: the job, which must have a function.
        channel: the line to the agent; its first message is the place.
        store_listener: on the rank that hosts the rendezvous store, its listening socket.
    """
    link = Channel(channel, heartbeat=timedelta(seconds=settings.recovery.heartbeat_seconds))
    try:
        assign = link.start()
    except ConnectionError:
        return 1
    training = _Training(settings, link, assign)
    try:
        finished = training.run(store_listener)
    except BaseException as error:  # also SystemExit must reach the agent with its traceback
        return _fail(error, link, assign, training.version)
    link.enter(Phase.CLOSING, training.version)
    link.tell(finished)
    released = link.wait_for_release()
    training.close()
    link.close()
    return 0 if released else 1


class _Training:
    def __init__(self, settings: JobSettings, link: Channel, assign: Assign) -> None:
        self._settings = settings
        self._link = link
        self._assign = assign
        self._group: RankGroup | None = None
        self._job: RankJob | None = None

    @property
    def version(self) -> int:
        """Steps committed."""
        return 0 if self._job is None else self._job.version

    def run(self, store_listener: socket.socket | None) -> Finished:
        """Calls the user's function; says how far it came and whether the rank left before."""
        settings = self._settings
        assert settings.function is not None, "ranks of commands are started by the agent"
        function = userfunction.resolve(settings.function)
        config = function.build_config(settings.config)
        self._group = RankGroup(
            self._assign,
            device=rank_device(self._assign.local_rank),
            store_listener=store_listener,
        )
        generation = self._assign.generation
        self._job = RankJob(settings, generation, self._group, self._link)
        try:
            function.call(self._job, config)
            self._job.finish()
        except StoppedError as stopped:
            return Finished(
                generation=generation, step=self.version, left=True, unsaved=stopped.unsaved
            )
        return Finished(generation=generation, step=self.version)

    def close(self) -> None:
        """Leaves the process group."""
        if self._group is not None:
            self._group.close()


def _fail(error: BaseException, link: Channel, assign: Assign, version: int) -> int:
    """Tells the agent at once; the other ranks are ended by theirs."""
    if is_lost_peer(error):
        # Another rank's end is the fault, and the agents know it already.
        link.wait_for_end(_GRACE)
    described = report(error, version)
    link.tell(Failed(generation=assign.generation, error=described))
    link.close()
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
        return error.code
    return AGENT_EXIT_CODES[described.exit_class]
