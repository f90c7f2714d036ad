"""The agent: a thin shell around its state machine that does the I/O."""

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from reknit.agent import events as ev
from reknit.agent import linux, listeners
from reknit.agent.activity import Activity
from reknit.agent.channel import RankChannel
from reknit.agent.config import AgentConfig
from reknit.agent.environment import command_environment
from reknit.agent.launcher import Launcher
from reknit.agent.link import Link
from reknit.agent.machine import handle
from reknit.agent.memory import this_pods_watch
from reknit.agent.state import Identity, new_state
from reknit.protocol.settings import Framework

if TYPE_CHECKING:
    from reknit.agent.rendezvous import Rendezvous

_FLUSH_TIMEOUT: Final = timedelta(seconds=0.5)
"""For the last words to the coordinator before the exit."""


class Agent:
    """Process 1 of a pod. `run` returns the exit status."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._settings = config.settings
        self._offer = self._open_offer()
        self._state = new_state(_identity(config), self._offer.endpoint)
        self._events: deque[ev.Event] = deque()
        self._is_handling = False
        self._channels: dict[int, RankChannel] = {}
        self._rendezvous: Rendezvous | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._memory = this_pods_watch()
        self._activity = Activity()
        self._launcher = Launcher(
            self._settings, config.target, tell=self._launcher_tells, log=self._log
        )
        self._link = Link(
            config.coordinator,
            config.token,
            on_connected=lambda: self._feed(ev.Connected()),
            on_disconnected=lambda: self._feed(ev.Disconnected()),
            on_message=lambda message: self._feed(ev.Received(message)),
            log=self._log,
        )
        self._exit: asyncio.Future[ev.Exit] | None = None

    async def run(self) -> int:
        """Serves the job until it is over or the pod is terminated."""
        loop = asyncio.get_running_loop()
        self._exit = loop.create_future()
        loop.set_exception_handler(self._broken)
        linux.adopt_orphans()
        loop.add_signal_handler(signal.SIGTERM, self._feed, ev.Terminated())
        # Ctrl-C in a terminal reaches every process there; whoever started the job handles it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGCHLD, self._reap_orphans)
        self._launcher.start()
        self._spawn(self._link.run())
        self._spawn(self._beat())
        try:
            exit_ = await self._exit
            await self._link.flush(_FLUSH_TIMEOUT)
            write_termination(self._config.termination_log, exit_.conclusion.termination_message())
        finally:
            await self._close()
        return exit_.code

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels.values():
            channel.close()
        self._launcher.close()
        if self._rendezvous is not None:
            await self._rendezvous.stop()
        self._offer.socket.close()

    def _feed(self, event: ev.Event) -> None:
        """Handles an event, and those that its actions bring about, one after the other."""
        self._events.append(event)
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while self._events:
                self._state, actions = handle(self._state, self._events.popleft(), monotonic())
                for action in actions:
                    self._do(action)
        finally:
            self._is_handling = False

    def _do(self, action: ev.Action) -> None:
        match action:
            case ev.Send(message):
                self._link.send(message)
            case ev.HangUp():
                self._spawn(self._link.hang_up())
            case ev.Launch(launch):
                self._launch(launch)
            case ev.GivePlace():
                self._give_place(action)
            case ev.Execute():
                self._execute(action)
            case ev.Tell(launch, message):
                if launch in self._channels:
                    self._channels[launch].tell(message)
            case ev.Kill(launch):
                self._launcher.signal(launch, signal.SIGKILL)
            case ev.Terminate(launch):
                self._launcher.signal(launch, signal.SIGTERM)
            case ev.Exit():
                if self._exit is not None and not self._exit.done():
                    self._exit.set_result(action)
            case ev.Log(text):
                self._log(text)

    def _launch(self, launch: int) -> None:
        own, other = socket.socketpair()
        with other:
            title = "server" if self._config.role == "server" else "rank"
            self._launcher.launch(launch, title, [other.fileno()])
        self._channels[launch] = RankChannel(
            own, lambda message: self._feed(ev.Said(launch, message)), self._log
        )

    def _give_place(self, action: ev.GivePlace) -> None:
        channel = self._channels.get(action.launch)
        if channel is not None:
            channel.tell(action.assign, self._offer.socket if action.hosts_store else None)
        if action.hosts_store:
            self._renew_offer()

    def _execute(self, action: ev.Execute) -> None:
        if action.hosts_store:
            self._release_offer()
        self._launcher.launch(
            action.launch,
            f"rank {action.assign.rank}",
            (),
            arguments=self._settings.command,
            environment=command_environment(self._settings, action.assign),
        )
        if action.hosts_store:
            self._renew_offer()

    def _launcher_tells(self, event: ev.Ready | ev.Started | ev.Ended) -> None:
        if isinstance(event, ev.Ended):
            channel = self._channels.pop(event.launch, None)
            if channel is not None:
                # What the rank said last comes before its end.
                channel.drain()
            event = replace(event, out_of_memory=self._memory.is_recent(monotonic()))
        self._feed(event)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.recovery.heartbeat_seconds)
            self._memory.is_recent(monotonic())
            self._feed(ev.Tick(self._activity.at_work(self._state.pids)))

    def _open_offer(self) -> listeners.Offer:
        settings = self._settings
        if settings.command is None or settings.framework is Framework.HOROVOD:
            return listeners.open_listener(self._config.host)
        num_ports = listeners.num_command_ports(settings)
        return listeners.reserve_ports(self._config.host, num_ports, SystemRandom())

    def _release_offer(self) -> None:
        """Frees the port for the program, or serves there what `horovodrun` would."""
        if self._settings.framework is not Framework.HOROVOD:
            self._offer.socket.close()
            return
        # A web server takes a while to import, and only Horovod needs one.
        from reknit.agent.rendezvous import Rendezvous

        if self._rendezvous is not None:
            self._spawn(self._rendezvous.stop())
        self._rendezvous = Rendezvous(self._offer.socket.dup())
        self._spawn(self._rendezvous.start())

    def _renew_offer(self) -> None:
        self._offer.socket.close()
        self._offer = self._open_offer()
        self._feed(ev.Offered(self._offer.endpoint))

    def _reap_orphans(self) -> None:
        """Waits for processes that ended up here because their parents are gone."""
        for pid in linux.children() - {self._launcher.pid}:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        self._fail(context.get("exception") or RuntimeError(context["message"]))

    def _fail(self, error: BaseException) -> None:
        """An agent whose state can no longer be trusted ends, and its ranks with it."""
        if self._exit is not None and not self._exit.done():
            self._exit.set_exception(error)

    def _log(self, text: str) -> None:
        print(f"[agent {self._config.name}] {text}", file=sys.stderr, flush=True)


def write_termination(path: Path, text: str) -> None:
    """Leaves the termination message for the operator; a pod without the file goes without."""
    try:
        path.write_text(text)
    except OSError as error:
        print(f"the termination message cannot be written: {error}", file=sys.stderr, flush=True)


def _identity(config: AgentConfig) -> Identity:
    settings = config.settings
    return Identity(
        name=config.name,
        role=config.role,
        replica=config.replica,
        node=config.node,
        host=config.host,
        num_slots=1 if config.role == "server" else settings.processes_per_worker,
        is_command=settings.command is not None,
        heartbeat_seconds=settings.recovery.heartbeat_seconds,
        dead_after_seconds=settings.recovery.dead_after_seconds,
        grace_seconds=settings.recovery.grace_seconds,
    )
