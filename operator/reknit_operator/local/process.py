"""A child process that ends with this one, and that an event loop can wait for."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

logger = logging.getLogger(__name__)

_SHIM: Final = Path(__file__).with_name("shim.py")


def open_log(path: Path) -> IO[bytes]:
    """Takes the output of a process; nowhere if `path` cannot be opened, as on a full disk.

    The process matters more than what it says.
    """
    try:
        return path.open("ab")
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error.strerror)
        return Path(os.devnull).open("ab")


class ChildProcess:
    """A running program in a session of its own, so the terminal's Ctrl-C does not reach it.

    It is killed by the kernel when the thread that started it ends; that thread must be the one of
    the event loop.

    Args:
        command: program and arguments, without a shell.
        env: the complete environment.
        output: takes standard output and error.
        working_dir: where the program starts.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: int | IO[bytes],
        working_dir: Path | None = None,
    ) -> None:
        shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid())]
        self._process = subprocess.Popen(
            [*shim, *command],
            env=dict(env),
            cwd=working_dir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens if the process has ended."""
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Waits for the end; the exit status, or the signal's number negated."""
        if self._process.poll() is None:
            await self._exited()
        return self._process.wait()

    async def stop(self, grace_seconds: float) -> int:
        """SIGTERM, and SIGKILL once the grace period is over; returns like `wait`."""
        self.send(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_seconds)
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """SIGKILL; returns like `wait`."""
        self.send(signal.SIGKILL)
        return await self.wait()

    async def _exited(self) -> None:
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(self.pid)
        exited = asyncio.Event()
        loop.add_reader(descriptor, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
