"""The life of a rank process: calls the user's function, generation after generation."""

import os
import socket
from datetime import timedelta

from reknit import userfunction
from reknit.errors import RewoundError, StoppedError
from reknit.protocol.base import Generation
from reknit.protocol.outcome import AGENT_EXIT_CODES
from reknit.protocol.ranks import Failed, Finished, Left, Phase
from reknit.protocol.settings import ENV_ROLE, JobSettings
from reknit.rank.channel import Channel
from reknit.rank.failure import report
from reknit.trainer.job import RankJob
from reknit.trainer.session import Session

_NOWHERE = Generation(incarnation=0, counter=0)


def run(settings: JobSettings, channel: socket.socket) -> int:
    """Runs one rank of the job, or a parameter server; returns the process's exit status.

    0: finished or left, and released. 1: an exception of the user's code, or the agent is gone;
    2: a wrong configuration.

    Args:
        settings: the job, which must have a function.
        channel: the line to the agent, which gives this process its place.
    """
    if os.environ.get(ENV_ROLE) == "server":
        from reknit.trainer.serving import serve

        return serve(settings, channel)
    life = _Life(settings, channel)
    try:
        finished = life.work()
        while not life.is_released(finished):
            if finished.left:
                life.link.tell(Left(generation=finished.generation, step=finished.step))
                life.link.close()
                return 0
            finished = life.work_on()
    except BaseException as error:  # also SystemExit must reach the agent with its traceback
        return _fail(error, life)
    life.session.close()
    life.link.close()
    return 0 if life.link.released else 1


class _Life:
    def __init__(self, settings: JobSettings, channel: socket.socket) -> None:
        heartbeat = timedelta(seconds=settings.recovery.heartbeat_seconds)
        self.link = Channel(channel, heartbeat=heartbeat, on_abort=lambda g: self.session.sever(g))
        self.session = Session(self.link, settings.degrees)
        self._settings = settings
        self._job: RankJob | None = None
        self.link.start()

    @property
    def version(self) -> int:
        """Steps committed."""
        return 0 if self._job is None else self._job.version

    @property
    def generation(self) -> Generation:
        """The newest one that this rank has had a place in."""
        return self.session.generation or _NOWHERE

    def work(self) -> Finished:
        """Calls the user's function; says how far it came and whether the rank left before."""
        settings = self._settings
        assert settings.function is not None, "ranks of commands are started by the agent"
        function = userfunction.resolve(settings.function)
        while True:
            config = function.build_config(settings.config)
            self._job = RankJob(settings, self.session, self.link)
            try:
                function.call(self._job, config)
                self._job.finish()
            except RewoundError:
                continue
            except StoppedError as stopped:
                return self._finished(left=True, unsaved=stopped.unsaved)
            return self._finished()

    def work_on(self) -> Finished:
        """Takes part in the next generation, although everything was done here."""
        assert self._job is not None
        try:
            self.session.leave()
            self._job.finish()
        except RewoundError:
            return self.work()
        except StoppedError as stopped:
            return self._finished(left=True, unsaved=stopped.unsaved)
        return self._finished()

    def is_released(self, finished: Finished) -> bool:
        """Says that this rank has finished, and waits; False if its generation ends before."""
        self.link.enter(Phase.CLOSING, self.version)
        self.link.tell(finished)
        return self.link.wait_for_release(finished.generation)

    def _finished(self, *, left: bool = False, unsaved: str | None = None) -> Finished:
        return Finished(generation=self.generation, step=self.version, left=left, unsaved=unsaved)


def _fail(error: BaseException, life: _Life) -> int:
    """Tells the agent at once; the other ranks go on without this one."""
    described = report(error, life.version)
    life.link.tell(Failed(generation=life.generation, error=described))
    life.link.close()
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
        return error.code
    return AGENT_EXIT_CODES[described.exit_class]
