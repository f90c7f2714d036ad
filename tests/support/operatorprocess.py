"""The operator as the process that runs in a cluster."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from apiserver import ApiServer, free_ports
from kubeapi import eventually

START_SECONDS = 60


class OperatorProcess:
    """`python -m reknit_operator.kube` as one of the server's users."""

    def __init__(
        self, server: ApiServer, folder: Path, options: Sequence[str], user: str = "operator"
    ) -> None:
        (self.port,) = free_ports(1)
        self.log = folder / f"operator-{self.port}.log"
        self._kubeconfig = server.kubeconfig(user)
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it; returns when it answers."""
        await self.launch()
        await eventually(self._answers, START_SECONDS)

    async def launch(self) -> None:
        """Starts it."""
        # kopf does not wait until the TLS connections of its watches have ended in good order.
        warnings = ("error", "ignore:unclosed:ResourceWarning")
        flags = [f"-W{warning}" for warning in warnings]
        command = [sys.executable, *flags, "-m", "reknit_operator.kube"]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *self._options,
                f"--port={self.port}",
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
            )

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log.read_text()
        return await self.health() is not None

    async def fetch(self, path: str) -> tuple[int, str] | None:
        """Status and text of an answer; None if it does not listen."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as response,
            ):
                return response.status, await response.text()
        except aiohttp.ClientConnectionError:
            return None

    async def health(self) -> int | None:
        answer = await self.fetch("/healthz")
        return None if answer is None else answer[0]

    async def figure(self, name: str) -> float:
        """A metric's value; `name` with its labels."""
        answer = await self.fetch("/metrics")
        assert answer is not None
        for line in answer[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise KeyError(name)

    async def leads(self) -> bool:
        return await self.figure("reknit_operator_leader") == 1

    async def send(self, number: signal.Signals) -> int:
        """Sends a signal; waits for the end and returns the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), 30)

    async def end(self) -> None:
        """Ends it if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
