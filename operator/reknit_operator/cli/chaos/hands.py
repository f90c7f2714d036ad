"""Doing things to processes, and undoing what must not stay."""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

from reknit.protocol.settings import ENV_POD_NAME
from reknit_operator.cli.chaos.decide import Action, Deed
from reknit_operator.local.sweep import ENV_SESSION, kill, sweep

_DUTY: Final = timedelta(milliseconds=50)
"""A slowed rank stands still for so long, and then runs for as long."""


class Hands:
    """Carries out deeds on the processes of one session, never on others.

    Args:
        session_id: of the session.
        resume_after: how long a stopped rank stands still, and a pod is cut off.
        slow_for: how long a slowed rank is slow.
    """

    def __init__(self, session_id: str, *, resume_after: timedelta, slow_for: timedelta) -> None:
        self._marks = {ENV_SESSION: session_id}
        self._resume_after = resume_after
        self._slow_for = slow_for
        self._tasks: set[asyncio.Task[None]] = set()
        self.calm_since: float | None = None
        """From when on the latest deed was over, seconds since the epoch; None while it is not, or
        if it killed what the generation consists of."""

    async def do(self, deed: Deed) -> bool:
        """Does it, or begins to; returns whether there was still something to do it to."""
        self.calm_since = None
        match deed.action:
            case Action.KILL_RANK:
                return kill(deed.pid, self._marks)
            case Action.KILL_POD:
                assert deed.pod is not None
                marks = {**self._marks, ENV_POD_NAME: deed.pod}
                return await asyncio.to_thread(sweep, marks) > 0
            case Action.KILL_COORDINATOR | Action.KILL_OPERATOR:
                self.calm_since = time.time()
                return kill(deed.pid, self._marks)
            case Action.STOP_RANK | Action.CUT_OFF_POD:
                return self._stop(deed.pid, asyncio.sleep(self._resume_after.total_seconds()))
            case Action.SLOW_RANK:
                return self._stop(deed.pid, self._be_slow(deed.pid))

    async def close(self) -> None:
        """Has every process that stands still go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The callbacks of the tasks have been called when those scheduled after them are.
        await asyncio.sleep(0)

    def _stop(self, pid: int, while_stopped: Coroutine[Any, Any, None]) -> bool:
        """Stops a process; it goes on when `while_stopped` ends, or is cancelled."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            while_stopped.close()
            return False
        if not kill(pid, self._marks, signal.SIGSTOP):
            while_stopped.close()
            os.close(descriptor)
            return False
        task = asyncio.create_task(while_stopped)
        self._tasks.add(task)
        # Unlike a block within the task, this is called even if the task never begins.
        task.add_done_callback(partial(self._resume, descriptor))
        return True

    def _resume(self, descriptor: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            self.calm_since = time.time()
        os.close(descriptor)

    async def _be_slow(self, pid: int) -> None:
        """Stops and continues a process that is stopped at first, until the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._slow_for.total_seconds()
        number = signal.SIGSTOP
        while loop.time() < until:
            await asyncio.sleep(_DUTY.total_seconds())
            number = signal.SIGCONT if number is signal.SIGSTOP else signal.SIGSTOP
            if not kill(pid, self._marks, number):
                return
