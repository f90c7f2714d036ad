"""`python -m reknit.agent.forkserver`: a small process that has imported much, and forks.

It speaks with its agent alone (see `wire`), is the parent of all ranks and commands, waits on them,
and tells at once how they end. Each child leads a session of its own, so that it can be killed with
everything it has started. When the agent is gone, however it ended, nothing of all that survives.
"""

import argparse
import atexit
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, NoReturn

from reknit.agent import linux, warmup, wire
from reknit.protocol.settings import ENV_JOB, JobSettings

EXEC_FAILED: Final = 127
"""Exit status of a child whose program cannot be executed, as shells have it."""
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
"""Without effect on forkserver and ranks: the agent, which gets them too, decides what follows."""


class Server:
    """The loop of a forkserver; one thread, no buffers that a child could inherit half-written."""

    def __init__(self, agent: socket.socket, settings: JobSettings, target: str) -> None:
        self._agent = agent
        self._settings = settings
        self._target = target
        self._launches: dict[int, int] = {}
        """Living children: launch by process id."""
        self._is_alone = False
        """The agent is gone."""
        self._helpers = linux.children()
        """What imported modules have started; not ours to end."""
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)

    def serve(self) -> Callable[[], int] | None:
        """Forks until the agent is gone: None then; in a child, what it is to do."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._agent, selectors.EVENT_READ, self._listen)
            selector.register(self._wake, selectors.EVENT_READ, self._reap)
            try:
                while not self._is_alone:
                    for ready, _ in selector.select():
                        work: Callable[[], int] | None = ready.data()
                        if work is not None:
                            return work
            except BaseException:
                self._end_everything()
                raise
        self._end_everything()
        return None

    def _listen(self) -> Callable[[], int] | None:
        packet, descriptors = wire.receive(self._agent)
        if not packet:
            self._is_alone = True
            return None
        message = wire.TO_FORKSERVER.validate_json(packet)
        if isinstance(message, wire.SignalProcess):
            self._signal(message)
            return None
        return self._start(message, descriptors)

    def _start(
        self, message: wire.StartProcess, descriptors: list[int]
    ) -> Callable[[], int] | None:
        started = monotonic()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            return lambda: self._child(parent, message, descriptors)
        wire.close_all(descriptors)
        self._launches[pid] = message.launch
        seconds = monotonic() - started
        self._tell(wire.ProcessStarted(launch=message.launch, pid=pid, seconds=seconds))
        return None

    def _child(self, parent: int, message: wire.StartProcess, descriptors: list[int]) -> int:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        linux.die_with_parent(parent)
        linux.set_title(message.title)
        for end in (self._agent, self._wake, self._woken):
            end.close()
        os.environ.update(message.environment)
        if message.arguments is not None:
            _execute(message.arguments)
        _outlive_stops()
        # What has left the session of a rank goes with the rank, while other ranks live on: it
        # comes to the rank for as long as that lives, and so only then to the forkserver.
        linux.adopt_orphans()
        [channel] = descriptors
        return warmup.resolve_target(self._target)(self._settings, socket.socket(fileno=channel))

    def _signal(self, message: wire.SignalProcess) -> None:
        for pid, launch in self._launches.items():
            if launch == message.launch:
                linux.kill_group(pid, message.signal)

    def _reap(self) -> None:
        """Waits for all children that have ended, and ends what they leave behind."""
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        while (ended := ended_child()) is not None:
            if ended in self._launches:
                # Before the wait, while nobody else can get this process id.
                linux.kill_group(ended, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1])
            launch = self._launches.pop(ended, None)
            if launch is not None:
                self._tell(
                    wire.ProcessEnded(
                        launch=launch,
                        exit_code=status if status >= 0 else None,
                        signal=-status if status < 0 else None,
                    )
                )
        if not self._launches or self._settings.command is None:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Processes that have left the session of their rank or command come here when it ends.

        Those of a command may come earlier, and it may still need them.
        """
        for pid in linux.children() - self._helpers - self._launches.keys():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _end_everything(self) -> None:
        for pid in self._launches:
            linux.kill_group(pid, signal.SIGKILL)
        while others := linux.children() - self._helpers:
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)
        for pid in linux.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _tell(self, message: wire.FromForkserver) -> None:
        # An agent that is gone is noticed by the loop.
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.send(self._agent, message)


def ended_child() -> int | None:
    """A child that has ended and was not waited for; None when there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def _outlive_stops() -> None:
    """A rank leaves at a step boundary when its agent says so; what it starts ends as usual.

    Programs that are executed would inherit that a signal is ignored, but not a handler.
    """
    for number in _STOPS:
        signal.signal(number, lambda *_: None)
        # Libraries need not be prepared for calls that a signal breaks off.
        signal.siginterrupt(number, False)
    os.register_at_fork(after_in_child=_heed_stops)


def _heed_stops() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _execute(arguments: tuple[str, ...]) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(arguments[0], arguments)  # noqa: S606 - the user's program, without a shell
    except OSError as error:
        os.write(2, f"{arguments[0]}: {error.strerror}\n".encode())
        os._exit(EXEC_FAILED)


def run_child(work: Callable[[], int]) -> NoReturn:
    """Ends a child: regularly when its work is done, at once when it has failed.

    A failed rank must not wait for threads and exit handlers of a program in an unknown state: the
    whole job waits for its end.
    """
    # What imported modules have registered is the forkserver's to clean up.
    atexit._clear()  # noqa: SLF001 - there is no other way to forget them
    try:
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    if code == 0:
        _finish()
    _exit(code)


def _finish() -> None:
    """Lets threads and exit handlers do their work, as an interpreter does before it is torn down.

    The tearing down itself is left out: it takes long with so much imported, and libraries that
    still have threads of their own have turned many a success into a crash there.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no other way to run them


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(arguments: list[str]) -> NoReturn:
    """Warms up, says so, and forks until the agent is gone."""
    parser = argparse.ArgumentParser(prog="python -m reknit.agent.forkserver")
    parser.add_argument(
        "--socket", type=int, required=True, help="descriptor of the agent's socket"
    )
    parser.add_argument("--parent", type=int, help="process id of the agent, if it is the parent")
    parser.add_argument("--target", required=True, help="what a rank process calls")
    parser.add_argument("--lean", action="store_true", help="leave all imports to the children")
    options = parser.parse_args(arguments)
    # The user's function is no program with arguments.
    sys.argv = sys.argv[:1]

    if options.parent is not None:
        linux.die_with_parent(options.parent)
    linux.adopt_orphans()
    linux.set_title("forkserver")
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    settings = JobSettings.model_validate_json(os.environ[ENV_JOB])
    agent = socket.socket(fileno=options.socket)
    wire.send(agent, _warm_up(settings, options.target, lean=options.lean))
    # From here on the end of the connection says that the agent is gone: there are children to end
    # before this process.
    linux.outlive_parent()
    work = Server(agent, settings, options.target).serve()
    if work is not None:
        run_child(work)
    _finish()
    _exit(0)


def _warm_up(settings: JobSettings, target: str, *, lean: bool) -> wire.Hello:
    started = monotonic()
    problem = warmup.check_program(settings)
    if lean:
        return wire.Hello(seconds=monotonic() - started, problem=problem)
    warmup.preload(settings, target)
    problem = warmup.check_function(settings)
    obstacle = warmup.fork_obstacle()
    warmup.settle_memory()
    return wire.Hello(seconds=monotonic() - started, obstacle=obstacle, problem=problem)


if __name__ == "__main__":
    main(sys.argv[1:])
