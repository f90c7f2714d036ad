"""The agent's side of its forkserver: a warm one where that is safe, else a lean one."""

import asyncio
import hmac
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from reknit.agent import linux, wire
from reknit.agent.borrowing import Borrowed, Program, borrow
from reknit.agent.config import DEFAULT_TARGET
from reknit.agent.events import Ended, Ready, Started
from reknit.protocol.outcome import ErrorReport, ExitClass
from reknit.protocol.settings import ENV_NURSERY, ENV_SERVER_TOKEN, ENV_TOKEN, JobSettings

_DEFAULTS: Final = {"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""What keeps a process fit for forking: numpy's BLAS would start its threads when it is imported,
and torch would ask the CUDA runtime for devices, which its children could then not use."""


def forkserver_environment(inherited: dict[str, str], settings: JobSettings) -> dict[str, str]:
    """What ranks and commands inherit: no token, and no more threads than a machine can bear.

    Several ranks in one pod get one OpenMP thread each unless the user has set another number, as
    under torchrun.
    """
    defaults = dict(_DEFAULTS)
    if settings.processes_per_worker > 1:
        defaults["OMP_NUM_THREADS"] = "1"
    if not linux.has_accelerator():
        # DeepSpeed and others ask CUDA for devices as they are imported, after which nothing can
        # be forked. Told that there are none, torch does not ask.
        defaults |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    if settings.servers is not None:
        token = inherited.get(ENV_TOKEN, "").encode()
        defaults[ENV_SERVER_TOKEN] = hmac.digest(token, b"parameter servers", "sha256").hex()
    withheld = {ENV_TOKEN, ENV_NURSERY, ENV_SERVER_TOKEN}
    kept = {name: value for name, value in inherited.items() if name not in withheld}
    return defaults | kept


class Launcher:
    """Starts processes and says how they end.

    `tell` gets Ready once, and again only when the forkserver had to be replaced; Started and Ended
    for each launch.
    """

    def __init__(
        self,
        settings: JobSettings,
        target: str,
        *,
        tell: Callable[[Ready | Started | Ended], None],
        log: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._target = target
        self._tell = tell
        self._log = log
        self._is_lean = settings.command is not None
        self._problem: ErrorReport | None = None
        self._said_hello = False
        self._process: subprocess.Popen[bytes] | Borrowed | None = None
        self._connection: socket.socket | None = None
        self._watched: dict[int, int | None] = {}
        """Living launches: a descriptor of the process once it exists."""

    @property
    def pid(self) -> int | None:
        """Process id of the forkserver."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts a forkserver; processes can be asked for at once, and wait until it is ready."""
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = self._borrowed(other) or self._own(other)
        self._said_hello = False
        own.setblocking(False)
        self._connection = own
        asyncio.get_running_loop().add_reader(own, self._read)

    def launch(
        self,
        launch: int,
        title: str,
        descriptors: Sequence[int],
        *,
        arguments: tuple[str, ...] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Asks for a process; the descriptors are the caller's to close."""
        self._watched[launch] = None
        message = wire.StartProcess(
            launch=launch, title=title, arguments=arguments, environment=environment or {}
        )
        self._send(message, descriptors)

    def signal(self, launch: int, number: int) -> None:
        """Sends a signal to a process and everything it has started."""
        self._send(wire.SignalProcess(launch=launch, signal=number))

    def close(self) -> None:
        """Ends the forkserver, and thereby every process it has started."""
        self._disconnect()
        if self._process is not None:
            if not self._said_hello:
                # It does not listen yet, and has no children.
                self._process.kill()
            self._process.wait()
            self._process = None
        for launch in list(self._watched):
            self._forget(launch)

    def _own(self, socket_: socket.socket) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "reknit.agent.forkserver"]
        command += ["--socket", str(socket_.fileno()), "--parent", str(os.getpid())]
        command += ["--target", self._target, *(["--lean"] if self._is_lean else [])]
        return subprocess.Popen(
            command,
            pass_fds=[socket_.fileno()],
            stdin=subprocess.DEVNULL,
            env=forkserver_environment(dict(os.environ), self._settings),
        )

    def _borrowed(self, socket_: socket.socket) -> Borrowed | None:
        """A forkserver that has imported everything, if a nursery of this machine has one."""
        nursery = os.environ.get(ENV_NURSERY)
        if nursery is None or self._is_lean or self._target != DEFAULT_TARGET:
            return None
        return borrow(
            nursery,
            Program.FORKSERVER,
            ["--target", self._target],
            forkserver_environment(dict(os.environ), self._settings),
            descriptors=[1, 2, socket_.fileno()],
        )

    def _send(self, message: wire.ToForkserver, descriptors: Sequence[int] = ()) -> None:
        if self._connection is None:
            return
        try:
            wire.send(self._connection, message, descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return  # The loss is noticed by the reader.

    def _read(self) -> None:
        while self._connection is not None:
            try:
                packet, _ = wire.receive(self._connection)
            except BlockingIOError:
                return
            if not packet:
                self._lost()
                return
            match wire.FROM_FORKSERVER.validate_json(packet):
                case wire.Hello() as hello:
                    self._greeted(hello)
                case wire.ProcessStarted(launch=launch, pid=pid):
                    self._started(launch, pid)
                case wire.ProcessEnded(launch=launch, exit_code=code, signal=number):
                    self._forget(launch)
                    self._tell(Ended(launch, code, number))

    def _greeted(self, hello: wire.Hello) -> None:
        self._problem = self._problem or hello.problem
        if hello.obstacle is not None:
            self._log(f"{hello.obstacle}; processes are started cold")
            self._replace(lean=True)
            return
        self._said_hello = True
        self._log(f"ready for processes after {hello.seconds:.2f} s")
        self._tell(Ready(self._problem))

    def _started(self, launch: int, pid: int) -> None:
        # When it is gone already, its end is on the way.
        with suppress(ProcessLookupError):
            self._watched[launch] = os.pidfd_open(pid)
        self._tell(Started(launch, pid))

    def _forget(self, launch: int) -> None:
        descriptor = self._watched.pop(launch, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def _lost(self) -> None:
        """The forkserver has died, and the kernel ends its children: their ends are awaited."""
        said_hello, was_lean = self._said_hello, self._is_lean
        for launch, descriptor in list(self._watched.items()):
            if descriptor is None:
                self._vanished(launch)
            else:
                asyncio.get_running_loop().add_reader(descriptor, self._vanished, launch)
        if was_lean and not said_hello:
            self._disconnect()
            text = "the process that starts all others cannot run here"
            self._log(text)
            error = ErrorReport(exception=text, traceback=text, exit_class=ExitClass.INFRASTRUCTURE)
            self._tell(Ready(error))
            return
        self._log("the forkserver has died and is replaced")
        # One that dies while it imports leaves the imports, and their failure, to the ranks.
        self._replace(lean=was_lean or not said_hello)

    def _vanished(self, launch: int) -> None:
        """A process of the dead forkserver is gone; what it had started has come to this agent."""
        for pid in linux.children() - {self.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._forget(launch)
        self._tell(Ended(launch, signal=signal.SIGKILL))

    def _replace(self, *, lean: bool) -> None:
        self._disconnect()
        if self._process is not None:
            self._process.wait()
        self._is_lean = lean
        self.start()

    def _disconnect(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()
            self._connection = None
