"""A job of real processes, with the test in the place of the coordinator and of the agents."""

import runpy
import time
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from ps_task import NUM_RANGES, NUM_WORKERS

from reknit.parameter_server.plan import place_ranges
from reknit.parameter_server.status import Status
from reknit.parameter_server.views import Member, View, succeed

HERE = Path(__file__).parent
LEASE = 0.5


class Process:
    def __init__(self, context: Any, script: str, **given: object) -> None:
        self.line, theirs = context.Pipe()
        self.process = context.Process(
            target=runpy.run_path,
            args=(str(HERE / script),),
            kwargs={"init_globals": {"line": theirs, **given}},
            daemon=True,
        )
        self.process.start()
        theirs.close()

    def say(self, *message: object) -> None:
        try:
            self.line.send(message)
        except OSError:
            # It has died; its end of the line tells so.
            return

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self.process.kill()
        self.process.join()
        self.line.close()


class ServerProcess(Process):
    def __init__(self, context: Any, name: str, **given: object) -> None:
        super().__init__(context, "ps_server.py", name=name, **given)
        self.name = name
        kind, port = self.line.recv()
        assert kind == "port"
        self.address = f"127.0.0.1:{port}"
        self.statuses: dict[int, Status] = {}


class Job:
    """Two ranges on two servers, each the primary of one; three workers."""

    def __init__(self, context: Any, folder: Path, mode: str, num_steps: int) -> None:
        self._context, self.mode, self.num_steps = context, mode, num_steps
        self._ledger = folder / "ledger"
        self.servers: dict[str, ServerProcess] = {}
        self.workers: dict[int, Process] = {}
        self.num_servers = 0
        self.clocks: dict[int, int] = {}
        self.digests: dict[int, str] = {}
        self.acknowledged: defaultdict[int, set[int]] = defaultdict(set)
        self.num_again = 0
        for _ in range(2):
            self.start_server(initial=range(NUM_RANGES))
        names = list(self.servers)
        self.members = {place: Member(place, 1) for place in range(NUM_WORKERS)}
        members = tuple(self.members.values())
        self.views = {
            number: View(1, 1, names[primary], names[backup], members)
            for number, (primary, backup) in enumerate(place_ranges(NUM_RANGES, 2))
            if backup is not None
        }
        for place in self.members:
            self.start_worker(place)
        self.publish()

    def start_server(self, initial: Any = ()) -> None:
        name = f"server-{self.num_servers}"
        self.num_servers += 1
        given = {"mode": self.mode, "initial": tuple(initial), "ledger": str(self._ledger)}
        self.servers[name] = ServerProcess(self._context, name, **given)

    def start_worker(self, place: int) -> None:
        given = {"worker": place, "incarnation": self.members[place].incarnation}
        self.workers[place] = Process(
            self._context, "ps_worker.py", mode=self.mode, num_steps=self.num_steps, **given
        )

    def publish(self) -> None:
        addresses = {name: server.address for name, server in self.servers.items()}
        for number, view in self.views.items():
            for server in self.servers.values():
                if server.name in (view.primary, view.backup):
                    server.say("see", (number, view, addresses))
            for place, worker in self.workers.items():
                if place in self.members:
                    worker.say(number, view, addresses)

    def reseat(self) -> None:
        members = tuple(self.members[place] for place in sorted(self.members))
        for number, view in self.views.items():
            self.views[number] = View(
                view.number, view.roster + 1, view.primary, view.backup, members
            )
        self.publish()

    def is_protected(self) -> bool:
        """Every range has a complete backup."""
        for number, view in self.views.items():
            server = self.servers.get(view.primary)
            status = None if server is None else server.statuses.get(number)
            if status is None or not (status.protected and status.number == view.number):
                return False
        return True

    def kill(self, kind: str, target: int) -> None:
        """SIGKILL; the end of the process is known at once, as to its agent."""
        if kind == "worker":
            place = target % NUM_WORKERS
            self.workers[place].kill()
            member = self.members[place]
            self.members[place] = Member(place, member.incarnation + 1)
            self.start_worker(place)
            self.reseat()
            return
        view = self.views[target % NUM_RANGES]
        name = view.primary if kind == "primary" else view.backup
        assert name is not None
        self.servers.pop(name).kill()
        self.start_server()
        for number, old in self.views.items():
            complete = {
                server.name
                for server in self.servers.values()
                if number in server.statuses
                and server.statuses[number].complete
                and server.statuses[number].number == old.number
            }
            spares = sorted(self.servers.keys() - {old.primary, old.backup})
            following = succeed(old, alive=self.servers, complete=complete, spares=spares)
            assert following is not None
            self.views[number] = following
        self.publish()

    def leave(self, place: int) -> None:
        """A worker is taken out for good."""
        del self.members[place]
        self.workers.pop(place).kill()
        self.reseat()

    def add(self, place: int, start: int) -> None:
        self.members[place] = Member(place, 1, start)
        self.start_worker(place)
        self.reseat()

    def run(self, disturbances: Sequence[tuple[int, Any]] = (), seconds: float = 60.0) -> None:
        """Until all workers are done; (clock, call) in order, once a worker has come so far.

        Before each one, every range has its backup again.
        """
        left, deadline = list(disturbances), time.monotonic() + seconds
        while not self.digests.keys() >= self.members.keys():
            assert time.monotonic() < deadline, (self.clocks, self.views, left)
            self.listen()
            if left and max(self.clocks.values(), default=0) >= left[0][0] and self.is_protected():
                left.pop(0)[1]()
        assert not left, "the job was over too soon"

    def listen(self) -> None:
        """Hears what there is to hear, and grants leases."""
        lines: dict[Connection, Any] = {s.line: s for s in self.servers.values()}
        lines |= {w.line: place for place, w in self.workers.items()}
        for line in wait(list(lines), timeout=1.0):
            who = lines[line]  # type: ignore[index]
            try:
                kind, content = line.recv()  # type: ignore[union-attr]
            except (EOFError, OSError):
                assert not isinstance(who, ServerProcess), "a server has failed"
                assert who in self.digests, f"worker {who} has failed"
                self.workers.pop(who)
                continue
            if isinstance(who, ServerProcess):
                self.beat(who, content)
            elif kind == "clock":
                self.clocks[who] = max(content, self.clocks.get(who, 0))
            elif kind == "acked":
                self.acknowledged[who].add(content)
            elif kind == "again":
                self.num_again += 1
            else:
                self.digests[who] = content

    def beat(self, server: ServerProcess, content: tuple[float, dict[int, Status]]) -> None:
        asked_at, server.statuses = content
        for number, view in self.views.items():
            if view.primary == server.name:
                server.say("renew", (number, view.number, asked_at + LEASE))

    def ledger(self, name: str, number: int) -> list[tuple[int, int]]:
        """(worker, clock) of all pushes that one server has applied to a range, in order."""
        lines = [line.split() for line in self._ledger.read_text().splitlines()]
        return [(int(w), int(c)) for n, r, w, _, c in lines if (n, r) == (name, str(number))]

    def stop(self) -> None:
        """Ends the servers in order; they end with exit status 0."""
        for server in self.servers.values():
            server.say("stop", None)
        for server in self.servers.values():
            while True:
                kind, content = server.line.recv()
                if kind == "end":
                    server.statuses = content
                    break
            server.process.join(20)
            assert server.process.exitcode == 0

    def close(self) -> None:
        for process in (*self.servers.values(), *self.workers.values()):
            process.kill()


def random_kills(seed: int, num_steps: int, kinds: list[str]) -> list[tuple[int, str, int]]:
    """(clock, kind, target), each kind at a random step of the first two thirds."""
    random = Random(seed)
    clocks = sorted(random.randrange(1, 2 * num_steps // 3) for _ in kinds)
    order = random.sample(kinds, len(kinds))
    return [(clock, kind, random.randrange(6)) for clock, kind in zip(clocks, order, strict=True)]
