"""Hosts the store and the kubelet, keeps the operator alive, and has everything end with it."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from reknit.protocol.settings import ENV_NURSERY
from reknit_operator.local.environment import HostEnvironment
from reknit_operator.local.kubelet import Hook, Kubelet
from reknit_operator.local.network import Network
from reknit_operator.local.nursery import Nursery
from reknit_operator.local.process import ChildProcess, open_log
from reknit_operator.local.server import StoreServer
from reknit_operator.local.store import ObjectStore
from reknit_operator.local.sweep import ENV_SESSION, sweep

logger = logging.getLogger(__name__)

_FIRST_WAIT: Final = timedelta(milliseconds=100)
_LAST_WAIT: Final = timedelta(seconds=5)
_HEALTHY: Final = timedelta(seconds=10)
"""An operator that has run this long gets a successor at once."""


class Supervisor:
    """Everything of one session but the job itself.

    Killing the operator or a pod ends that process alone; when the supervisor's process dies, all
    of them die: the kernel kills the direct children, the watchdog whatever else carries the
    session's mark.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        python_path: Sequence[Path] = (),
        variables: Mapping[str, str] | None = None,
        working_dir: Path | None = None,
        python: str = sys.executable,
        nursery: Nursery | None = None,
    ) -> None:
        self.session_id = uuid.uuid4().hex if nursery is None else nursery.session_id
        self.run_dir = run_dir
        self.store = ObjectStore()
        self.operator_pid: int | None = None
        self._python_path = python_path
        self._variables = os.environ if variables is None else variables
        self._working_dir = working_dir
        self._python = python
        self._nursery = nursery
        self._server = StoreServer(self.store)
        self._tasks: list[asyncio.Task[None]] = []
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._network: Network | None = None
        self._state_dir: Path | None = None

    async def start(self, *, before_start: Hook, before_stop: Hook) -> None:
        """Starts store, kubelet and operator; the hooks are the kubelet's.

        Raises:
            ConfigurationError: the machine is full of jobs.
            OSError: the run folder cannot be written.
        """
        log_dir = self.run_dir / "logs"
        log_dir.mkdir(parents=True, exist_ok=True)
        # Not in the run folder: the path of a unix socket may have 107 characters at most.
        self._state_dir = Path(tempfile.mkdtemp(prefix="reknit-"))
        self._network = Network()
        variables = dict(self._variables)
        if self._nursery is not None:
            variables[ENV_NURSERY] = str(self._nursery.socket)
        host = HostEnvironment(
            self.session_id, self._network.coordinator, variables, self._python_path
        )
        self._start_watchdog(self._state_dir)
        kubelet = Kubelet(
            self.store,
            host,
            self._network,
            log_dir=log_dir,
            state_dir=self._state_dir,
            working_dir=self._working_dir,
            before_start=before_start,
            before_stop=before_stop,
        )
        await self._server.start(self._socket())
        self._tasks = [
            asyncio.create_task(kubelet.run(), name="kubelet"),
            asyncio.create_task(self._keep_operator(host, log_dir), name="operator"),
        ]

    async def close(self) -> None:
        """Ends every process of the session; may be called twice."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for result in results:
            if isinstance(result, Exception):
                logger.error("A part of the local backend failed", exc_info=result)
        await self._server.close()
        await asyncio.to_thread(sweep, {ENV_SESSION: self.session_id})
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            await asyncio.to_thread(self._watchdog.wait)
            self._watchdog = None
        if self._network is not None:
            self._network.close()
        if self._state_dir is not None:
            shutil.rmtree(self._state_dir, ignore_errors=True)

    def _socket(self) -> Path:
        assert self._state_dir is not None
        return self._state_dir / "store"

    def _start_watchdog(self, state_dir: Path) -> None:
        program = Path(__file__).with_name("watchdog.py")
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), self.session_id, str(state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"LC_ALL": "C"},
            start_new_session=True,
        )

    async def _keep_operator(self, host: HostEnvironment, log_dir: Path) -> None:
        """Runs the operator; starts it anew when it ends, after a wait that doubles."""
        loop, wait = asyncio.get_running_loop(), _FIRST_WAIT
        command = [sys.executable, "-m", "reknit_operator.local.operator"]
        command += ["--socket", str(self._socket()), "--python", self._python]
        command += ["--checkpoint-root", str(self.run_dir.resolve() / "checkpoints")]
        while True:
            started = loop.time()
            with open_log(log_dir / "operator.log") as log:
                process = ChildProcess(command, env=host.base(), output=log)
            self.operator_pid = process.pid
            try:
                status = await process.wait()
            finally:
                self.operator_pid = None
                await asyncio.shield(process.kill())
            healthy = loop.time() - started >= _HEALTHY.total_seconds()
            wait = _FIRST_WAIT if healthy else min(wait * 2, _LAST_WAIT)
            logger.info("The operator ended with status %d and is started anew", status)
            await asyncio.sleep(wait.total_seconds())
