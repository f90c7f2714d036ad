import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import WSMsgType, web

from reknit.protocol import settings as names
from reknit.protocol.agents import (
    FROM_AGENT,
    Begin,
    FromAgent,
    Place,
    Register,
    ToAgent,
)
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import Conclusion
from reknit.protocol.settings import JobSettings, RecoverySettings

TOKEN = "a-token"
Kind = TypeVar("Kind")

STAND_IN = '''
import json, os, signal, socket, subprocess, sys, threading, time


def hear(channel):
    """Messages, each with the listener that came along, or None."""
    rest, listeners = b"", []
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 4)
        listeners += [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if not data:
            return
        *lines, rest = (rest + data).split(b"\\n")
        for line in lines:
            message = json.loads(line)
            own = message["kind"] == "assign" and listeners
            yield message, listeners.pop(0) if own else None


def run(settings, channel):
    """What a rank does is said by the job's configuration."""
    messages = hear(channel)
    say = lambda **message: channel.sendall(json.dumps(message).encode() + b"\\n")
    threading.Thread(target=beat, args=(say,), daemon=True).start()
    config = settings.config
    say(kind="parked")
    assign, listener = next(messages)
    answer(config, assign, listener)
    generation = assign["generation"]
    step = lambda n: say(kind="step", generation=generation, step=n)
    if config.get("grandchild"):
        child = subprocess.Popen(
            [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"],
            stdout=subprocess.PIPE, start_new_session=config["grandchild"] == "daemon",
        )
        child.stdout.readline()
        step(child.pid)
    step(1)
    error = config.get("error")
    if error:
        say(kind="failed", generation=generation,
            error={"exception": error, "traceback": error, "exit_class": "ProgramError"})
        return 1
    if "exit" in config:
        return config["exit"]
    for message, listener in messages:
        kind = message["kind"]
        if kind == "abort":
            say(kind="left", generation=generation, step=1)
        if kind == "assign":
            generation = message["generation"]
            answer(config, message, listener)
            step(1)
        if kind == "leave" and not config.get("stubborn"):
            say(kind="finished", generation=generation, step=1, left=True)
        if kind == "release":
            return 0
    return 3


def answer(config, assign, listener):
    if listener is not None and config.get("answer"):
        connection, _ = listener.accept()
        connection.sendall(b"rank %d of %d" % (assign["rank"], assign["generation"]["counter"]))


def beat(say):
    # The period of a heartbeat; no test waits for it.
    while True:
        say(kind="beat", phase="Step", step=1)
        time.sleep(0.05)
'''


class FakeCoordinator:
    """Listens where agents connect, keeps what they say, and says what a test wants."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._socket: web.WebSocketResponse | None = None
        self._new = asyncio.Condition()
        self.heard: list[FromAgent] = []
        self._next = 0
        self.tokens: list[str | None] = []

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/agent", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        self.tokens.append(request.headers.get("Authorization"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._socket = socket
        async for packet in socket:
            if packet.type is WSMsgType.TEXT:
                async with self._new:
                    self.heard.append(FROM_AGENT.validate_json(packet.data))
                    self._new.notify_all()
        return socket

    async def say(self, message: ToAgent) -> None:
        assert self._socket is not None
        await self._socket.send_str(message.model_dump_json())

    async def hear(self, kind: type[Kind], where: Callable[[Kind], bool] = lambda _: True) -> Kind:
        """The next message of a kind that fulfils a condition; passes over all before it."""
        async with asyncio.timeout(60), self._new:
            while True:
                while self._next < len(self.heard):
                    message = self.heard[self._next]
                    self._next += 1
                    if isinstance(message, kind) and where(message):
                        return message
                await self._new.wait()

    def all(self, kind: type[Kind]) -> list[Kind]:
        return [message for message in self.heard if isinstance(message, kind)]


class AgentProcess:
    """One agent as a real process."""

    def __init__(self, process: subprocess.Popen[bytes], termination_log: Path, log: Path) -> None:
        self.process = process
        self._termination_log = termination_log
        self._log = log

    async def wait(self) -> int:
        async with asyncio.timeout(60):
            await gone(self.process.pid)
        return self.process.wait()

    @property
    def conclusion(self) -> Conclusion:
        return Conclusion.model_validate_json(self._termination_log.read_text())

    @property
    def log(self) -> str:
        return self._log.read_text()


def python_path(folder: Path) -> str:
    """Where processes find modules: in this folder, and where this process does."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


async def gone(pid: int, descriptor: int | None = None) -> None:
    """Waits for the end of a process by a descriptor of it, without asking again and again."""
    if descriptor is None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def is_running(descriptor: int) -> bool:
    return not select.select([descriptor], [], [], 0)[0]


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    coordinator = FakeCoordinator("127.0.0.1")
    await coordinator.start()
    yield coordinator
    await coordinator.stop()


@pytest.fixture
def start_agent(
    tmp_path: Path, coordinator: FakeCoordinator
) -> Iterator[Callable[..., AgentProcess]]:
    """Starts an agent; its ranks run a stand-in unless told otherwise."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    agents: list[AgentProcess] = []

    def start(
        *, target: str = "stand_in:run", replica: int = 0, grace: float = 30.0, **fields: Any
    ) -> AgentProcess:
        fields.setdefault("name", "job")
        recovery = RecoverySettings(heartbeat_seconds=0.1, grace_seconds=grace)
        settings = JobSettings(recovery=recovery, **fields)
        log, termination = tmp_path / f"log-{replica}", tmp_path / f"termination-{replica}"
        environment = {
            **os.environ,
            names.ENV_JOB: settings.model_dump_json(),
            names.ENV_TOKEN: TOKEN,
            names.ENV_COORDINATOR: coordinator.address,
            names.ENV_POD_NAME: f"job-worker-{replica}",
            names.ENV_POD_IP: f"127.0.0.{replica + 1}",
            names.ENV_REPLICA: str(replica),
            names.ENV_TERMINATION_LOG: str(termination),
            "PYTHONPATH": python_path(tmp_path),
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "reknit.agent", "--rank-target", target],
                env=environment,
                stdout=stream,
                stderr=stream,
            )
        agents.append(AgentProcess(process, termination, log))
        return agents[-1]

    yield start
    for agent in agents:
        with suppress(ProcessLookupError):
            agent.process.send_signal(signal.SIGKILL)
        agent.process.wait()


def begin(store: Endpoint, counter: int = 1, *, num_ranks: int = 2, incarnation: int = 1) -> Begin:
    """A generation whose ranks all live on the first agent."""
    places = tuple(Place(rank=n, agent="job-worker-0", slot=n) for n in range(num_ranks))
    generation = Generation(incarnation=incarnation, counter=counter)
    return Begin(generation=generation, world_size=num_ranks, store=store, places=places)


@pytest.fixture
def run_generation(coordinator: FakeCoordinator) -> Callable[..., Any]:
    """Begins a generation on one agent that has just registered; gives the message."""

    async def run(counter: int = 1, *, num_ranks: int = 2) -> Begin:
        register = await coordinator.hear(Register)
        message = begin(register.store, counter, num_ranks=num_ranks)
        await coordinator.say(message)
        return message

    return run


@pytest.fixture
def wait_gone() -> Callable[..., Any]:
    """Waits until a process has ended."""
    return gone


class Pids:
    """Holds on to processes by descriptors, so that no reused number can deceive a test."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def watch(self, *pids: int) -> None:
        self._descriptors += [os.pidfd_open(pid) for pid in pids]

    @property
    def num_running(self) -> int:
        return sum(is_running(descriptor) for descriptor in self._descriptors)

    async def all_gone(self) -> None:
        for descriptor in self._descriptors:
            await gone(0, os.dup(descriptor))

    def close(self) -> None:
        for descriptor in self._descriptors:
            with suppress(OSError, ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)


@pytest.fixture
def make_pids() -> Iterator[Callable[[], Pids]]:
    made: list[Pids] = []

    def make() -> Pids:
        made.append(Pids())
        return made[-1]

    yield make
    for pids in made:
        pids.close()


@pytest.fixture
def pids(make_pids: Callable[[], Pids]) -> Pids:
    return make_pids()
