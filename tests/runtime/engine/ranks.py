"""Rank processes with a test in the place of their agents."""

import runpy
import signal
import socket
from pathlib import Path
from typing import Any

from reknit.protocol.base import Endpoint, Generation, Message
from reknit.protocol.ranks import FROM_RANK, Abort, Assign, Failed, Left, Parked, Release, StepDone
from reknit.protocol.settings import JobSettings

HERE = Path(__file__).parent


class Rank:
    """One rank process and the agent's end of its line."""

    def __init__(self, process: Any, line: socket.socket) -> None:
        self.process = process
        self.line = line
        self.lines = line.makefile("rb")
        self.heard: list[Message] = []

    def until(self, kind: type[Message]) -> Any:
        """The next message of a kind; all messages up to it are kept in `heard`."""
        for line in self.lines:
            message = FROM_RANK.validate_json(line)
            self.heard.append(message)
            if isinstance(message, kind):
                return message
        failed = "".join(message.error.traceback for message in self.all(Failed))
        raise AssertionError(failed or f"the rank ended without {kind.__name__}: {self.heard}")

    def until_step(self, step: int) -> None:
        """Hears everything up to the commit of a step."""
        while self.until(StepDone).step < step:
            pass

    def all(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def send(self, message: Message, attached: socket.socket | None = None) -> None:
        data = message.model_dump_json().encode() + b"\n"
        descriptors = [] if attached is None else [attached.fileno()]
        socket.send_fds(self.line, [data], descriptors)

    def rest(self, kind: type[Message]) -> list[Any]:
        """All messages of a kind that a rank which has ended has said."""
        self.heard += [FROM_RANK.validate_json(line) for line in self.lines]
        return self.all(kind)

    def until_death(self) -> None:
        """Hears everything that the rank says before it is killed."""
        self.heard += [FROM_RANK.validate_json(line) for line in self.lines]
        self.process.join(60)
        assert self.process.exitcode == -signal.SIGKILL, self.all(Failed)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self.process.kill()
        self.process.join()

    def end(self) -> int:
        """Releases the rank; its exit status."""
        self.send(Release())
        return self.exit_status()

    def exit_status(self) -> int:
        self.process.join(60)
        assert self.process.exitcode is not None
        return self.process.exitcode

    def close(self) -> None:
        self.kill()
        self.lines.close()
        self.line.close()


class Ranks:
    """Starts rank processes and gives them their places."""

    def __init__(self, processes: Any) -> None:
        self._processes = processes
        self._started: list[Rank] = []

    def launch(self, settings: JobSettings, environment: dict[str, str] | None = None) -> Rank:
        """A process without a place."""
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        with theirs:
            process = self._processes.Process(
                target=runpy.run_path,
                args=(str(HERE / "rank_process.py"),),
                kwargs={
                    "init_globals": {
                        "settings": settings.model_dump_json(),
                        "environment": environment or {},
                        "line": theirs,
                    }
                },
                daemon=True,
            )
            process.start()
        self._started.append(Rank(process, ours))
        return self._started[-1]

    def assign(self, ranks: list[Rank], counter: int) -> None:
        """Begins a generation with these processes in the order of their ranks."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for rank, process in enumerate(ranks):
                process.send(
                    Assign(
                        generation=Generation(incarnation=1, counter=counter),
                        rank=rank,
                        world_size=len(ranks),
                        local_rank=rank,
                        local_world_size=len(ranks),
                        group_rank=0,
                        store=Endpoint(host="127.0.0.1", port=listener.getsockname()[1]),
                        hosts=("127.0.0.1",) * len(ranks),
                        nodes=tuple(f"node-{rank}" for rank in range(len(ranks))),
                    ),
                    listener if rank == 0 else None,
                )

    def start(
        self,
        settings: JobSettings,
        num_ranks: int,
        counter: int = 1,
        environment: dict[str, str] | None = None,
    ) -> list[Rank]:
        """The ranks of a generation."""
        ranks = [self.launch(settings, environment) for _ in range(num_ranks)]
        self.assign(ranks, counter)
        return ranks

    def abort(self, ranks: list[Rank], counter: int) -> list[int]:
        """Ends a generation for these processes; the versions that they hold."""
        generation = Generation(incarnation=1, counter=counter)
        for rank in ranks:
            rank.send(Abort(generation=generation, reason="a rank has died"))
        return [rank.until(Left).step for rank in ranks]

    def park(self, settings: JobSettings, environment: dict[str, str] | None = None) -> Rank:
        """A process that has come as far as it can without a place."""
        rank = self.launch(settings, environment)
        rank.until(Parked)
        return rank

    def close(self) -> None:
        for rank in self._started:
            rank.close()
