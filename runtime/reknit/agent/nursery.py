"""`python -m reknit.agent.nursery`: one warm process for all that a job needs of them on a machine.

Where all pods of a job are processes of one machine, each would import torch and the user's module
for itself, and the dry run before them once more. A nursery imports them once; the dry run and the
pods' forkservers are its forks. Their output, environment and folder are those of whoever asks.
"""

import argparse
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from pydantic import ValidationError

from reknit.agent import forkserver, linux, warmup, wire
from reknit.agent.borrowing import Born, Declined, Gone, Order, Program
from reknit.agent.config import DEFAULT_TARGET
from reknit.agent.forkserver import ended_child, run_child
from reknit.protocol.base import Message
from reknit.protocol.settings import ENV_JOB, JobSettings

_BACKLOG: Final = 64
_INSPECTION: Final = "reknit.inspection.__main__:main"
"""By name: whatever an agent imports does without torch."""
_OWN_PREFIX: Final = "REKNIT_"
_WITHOUT_EFFECT: Final = frozenset(
    {"GLOO_SOCKET_IFNAME", "OLDPWD", "PWD", "PYTHONUNBUFFERED", "SHLVL", "_"}
)
"""Variables that are looked at later, or by nobody."""


class Nursery:
    """The loop; one thread.

    Args:
        listener: takes one connection per process.
        environment: that modules were imported in.
        obstacle: why no process is given out; None if they are.
    """

    def __init__(
        self, listener: socket.socket, environment: Mapping[str, str], obstacle: str | None
    ) -> None:
        self._listener = listener
        self._obstacle = obstacle
        self._environment = environment
        self._children: dict[int, socket.socket] = {}
        """By process id: where its end is told."""
        self._helpers = linux.children()
        """What imported modules have started."""
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)

    def serve(self) -> Callable[[], int]:
        """Forks until it is killed; returns in a child only: what that is to do."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, self._accept)
            selector.register(self._wake, selectors.EVENT_READ, self._reap)
            self._selector = selector
            while True:
                for ready, _ in selector.select():
                    work: Callable[[], int] | None = ready.data()
                    if work is not None:
                        return work

    def _accept(self) -> Callable[[], int] | None:
        connection, _ = self._listener.accept()
        packet, descriptors = wire.receive(connection)
        try:
            order = Order.model_validate_json(packet)
            reason = self._obstacle or unlike(order.environment, self._environment)
        except ValidationError:
            reason = "the order is not whole"
        if reason is not None:
            _tell(connection, Declined(reason=reason))
            wire.close_all(descriptors)
            connection.close()
            return None
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            connection.close()
            return lambda: self._child(nursery, order, descriptors)
        wire.close_all(descriptors)
        self._children[pid] = connection
        # It says no more: what is read is its end, and that of whoever the process is for.
        self._selector.register(connection, selectors.EVENT_READ, partial(self._deserted, pid))
        _tell(connection, Born(pid=pid))
        return None

    def _deserted(self, pid: int) -> None:
        """Nobody is there for this child any more; ranks die with their forkserver."""
        self._selector.unregister(self._children[pid])
        os.kill(pid, signal.SIGKILL)

    def _child(self, nursery: int, order: Order, descriptors: list[int]) -> int:  # noqa: RET503 - a forkserver's main does not return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for end in (self._listener, self._wake, self._woken, *self._children.values()):
            end.close()
        output, errors, *others = descriptors
        os.dup2(output, 1)
        os.dup2(errors, 2)
        wire.close_all([output, errors])
        os.environ.clear()
        os.environ.update(order.environment)
        os.chdir(order.folder)
        if order.program is Program.INSPECTION:
            linux.die_with_parent(nursery)
            return warmup.resolve_target(_INSPECTION)()
        [channel] = others
        forkserver.main([*order.arguments, "--socket", str(channel)])

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        while (pid := ended_child()) is not None:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            connection = self._children.pop(pid, None)
            if connection is not None:
                with suppress(KeyError):
                    self._selector.unregister(connection)
                _tell(connection, Gone(status=status))
                connection.close()
        # What a forkserver that was killed leaves behind comes here.
        for pid in linux.children() - self._helpers - self._children.keys():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def unlike(asked: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    """What of an environment may have made a difference to the imports; None if nothing has."""
    names = asked.keys() | own.keys()
    for name in sorted(names - _WITHOUT_EFFECT):
        if not name.startswith(_OWN_PREFIX) and asked.get(name) != own.get(name):
            return f"{name} was another one when modules were imported"
    return None


def _tell(connection: socket.socket, message: Message) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        wire.send(connection, message)


def _import_all(settings: JobSettings) -> str | None:
    """Imports what the processes of the job need; why they could not be trusted, if so.

    The configuration is looked at first: a mistake in it need not wait for the rest.
    """
    # Imported late: it brings the user's module.
    from reknit import userfunction

    assert settings.function is not None, "a command imports nothing"
    # Whatever goes wrong here goes wrong again in the dry run, which tells it.
    with suppress(Exception, SystemExit):
        function = userfunction.resolve(settings.function)
        if not function.problems(settings.config):
            warmup.preload(settings, DEFAULT_TARGET)
    return warmup.fork_obstacle()


def main(arguments: list[str]) -> NoReturn:
    """Imports, and forks until it is killed, which the end of its parent does."""
    parser = argparse.ArgumentParser(prog="python -m reknit.agent.nursery")
    parser.add_argument("--socket", required=True, help="path of the socket to listen on")
    options = parser.parse_args(arguments)
    sys.argv = sys.argv[:1]
    linux.adopt_orphans()
    linux.set_title("nursery")
    # Before the imports: whoever asks waits until they are done.
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fresh = f"{options.socket}.new"
    listener.bind(fresh)
    listener.listen(_BACKLOG)
    # Who sees the socket can connect.
    Path(fresh).rename(options.socket)
    settings = JobSettings.model_validate_json(os.environ[ENV_JOB])
    # Some modules set variables.
    environment = dict(os.environ)
    obstacle = _import_all(settings)
    warmup.settle_memory()
    run_child(Nursery(listener, environment, obstacle).serve())


if __name__ == "__main__":
    main(sys.argv[1:])
