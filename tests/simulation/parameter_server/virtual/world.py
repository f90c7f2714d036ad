"""One simulated job: network, coordinator and faults."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from virtual.parts import Server, Worker
from virtual.truth import Truth

from reknit.parameter_server import session
from reknit.parameter_server.state import Event, Leased, Viewed
from reknit.parameter_server.status import Status, status
from reknit.parameter_server.table import Consistency, Mode
from reknit.parameter_server.views import Member, View, succeed

HEARTBEAT = 0.1
DEAD_AFTER = 0.5
LEASE = 0.4
"""Shorter than the time after which a silent server counts as dead."""


class World:
    """A job with two servers, or three, and its coordinator."""

    def __init__(
        self,
        seed: int,
        *,
        mode: Mode,
        num_ranges: int = 1,
        num_workers: int = 3,
        num_clocks: int = 6,
        max_delay: float = 0.01,
        loss: float = 0.0,
        slow: dict[int, float] | None = None,
    ) -> None:
        self.random = Random(seed)
        self.mode, self.num_ranges, self.num_clocks = mode, num_ranges, num_clocks
        self.max_delay, self.loss = max_delay, loss
        self.slow = slow or {}
        self.now = 100.0
        self.queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.order = count()
        self.truth = Truth(mode.is_synchronous, num_ranges)
        self.fenced: list[tuple[int, int, str]] = []
        self.isolated: set[str] = set()
        self.cuts: set[tuple[str, str]] = set()
        """Pairs that cannot talk to each other, in either order."""
        self.servers: dict[str, Server] = {}
        self.workers: dict[int, Worker] = {}
        self.heard: dict[str, float] = {}
        self.complete: dict[tuple[str, int], int] = {}
        """By server and range: the number of the view in which it said that it is complete."""
        self.silent = [0.0] * num_ranges
        """By range: for how long the primary has waited for its backup."""
        self.lease_ends = [0.0] * num_ranges
        self.num_faults = 0
        for _ in range(3):
            self.start_server()
        self.members = {place: Member(place, 1) for place in range(num_workers)}
        self.views = [
            View(1, 1, f"server-{r % 2}", f"server-{(r + 1) % 2}", tuple(self.members.values()))
            for r in range(num_ranges)
        ]
        for number in range(num_ranges):
            for name in ("server-0", "server-1"):
                self.servers[name].hold(number, initial=True)
        for place in range(num_workers):
            self.start_worker(place, 1)
        for number in range(num_ranges):
            self.publish(number)
        self.after(HEARTBEAT, self.coordinate)

    # Time and network

    def after(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self.queue, (self.now + seconds, next(self.order), do, arguments))

    def send(self, source: str, target: str, do: Callable[..., None], *arguments: Any) -> None:
        """Delivers after a while, unless the message is lost."""
        if not self.is_linked(source, target):
            return
        if self.loss and self.random.random() < self.loss:
            return
        delay = self.random.random() * self.max_delay
        self.after(delay, self._deliver, source, target, do, arguments)

    def _deliver(
        self, source: str, target: str, do: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        if self.is_linked(source, target):
            do(*arguments)

    def is_linked(self, one: str, other: str) -> bool:
        return not self.isolated & {one, other} and (one, other) not in self.cuts

    def to_server(self, name: str, number: int, event: Event) -> None:
        self.servers[name].feed(number, event)

    def to_worker(self, who: tuple[int, int], number: int, event: session.Event) -> None:
        worker = self.workers.get(who[0])
        if worker is not None and worker.incarnation == who[1]:
            worker.feed(number, event)

    def run(self, seconds: float = 60.0) -> None:
        """Lets time pass until all workers are done.

        Raises:
            AssertionError: they hang, or an invariant is broken.
        """
        end = self.now + seconds
        while self.now < end:
            self.now, _, do, arguments = heapq.heappop(self.queue)
            do(*arguments)
            if all(w.is_done for w in self.workers.values()):
                break
        else:
            raise AssertionError(f"hangs: {self.views} {self.workers}")
        tables = [self.servers[v.primary].ranges[n].applied for n, v in enumerate(self.views)]
        self.truth.check_end(tables)

    def compute_seconds(self, place: int) -> float:
        return self.random.uniform(0.01, 0.05) * self.slow.get(place, 1.0)

    # Coordinator

    def start_server(self) -> None:
        name = f"server-{len(self.servers)}"
        self.servers[name] = Server(self, name, self.random.uniform(0, 1000))
        self.heard[name] = self.now
        self.after(self.random.random() * HEARTBEAT, self.beat, name)

    def start_worker(self, place: int, incarnation: int) -> None:
        self.workers[place] = Worker(self, place, incarnation)

    def beat(self, name: str) -> None:
        server = self.servers[name]
        if server.alive:
            told = {n: status(state, server.clock()) for n, state in server.ranges.items()}
            self.send(name, "coordinator", self.hear, name, server.clock(), told)
            self.after(HEARTBEAT, self.beat, name)

    def hear(self, name: str, asked_at: float, told: dict[int, Status]) -> None:
        """A sign of life; it is answered with the views, and with leases from when it was sent."""
        self.heard[name] = self.now
        for number, said in told.items():
            if said.complete:
                self.complete[name, number] = said.number
            view = self.views[number]
            if (view.primary, view.number) == (name, said.number) and view.backup is not None:
                self.silent[number] = said.backup_silent_seconds
        for number, view in enumerate(self.views):
            if name in (view.primary, view.backup):
                self.send("coordinator", name, self.to_server, name, number, Viewed(view))
            if name == view.primary:
                self.lease_ends[number] = self.now + LEASE
                lease = Leased(view.number, asked_at + LEASE)
                self.send("coordinator", name, self.to_server, name, number, lease)

    def coordinate(self) -> None:
        """Replaces what has died or is silent; tells everyone the views again."""
        silent = self.now - DEAD_AFTER
        alive = {name for name, at in self.heard.items() if at >= silent}
        for number, view in enumerate(self.views):
            complete = {
                name for name in self.servers if self.complete.get((name, number)) == view.number
            }
            spares = sorted(alive - {view.primary, view.backup})
            heard = alive if self.silent[number] < DEAD_AFTER else alive - {view.backup}
            if view.primary not in alive:
                heard = alive
            following = succeed(view, alive=heard, complete=complete, spares=spares)
            if following is None:
                continue
            may_live = self.servers[view.primary].alive
            if (
                following.primary != view.primary
                and may_live
                and self.now < self.lease_ends[number]
            ):
                continue
            self.views[number] = following
            self.silent[number] = 0.0
            self.publish(number)
        for place in self.members:
            for number, view in enumerate(self.views):
                event = session.Viewed(view)
                target = (place, self.workers[place].incarnation)
                self.send("coordinator", f"worker-{place}", self.to_worker, target, number, event)
        self.after(HEARTBEAT, self.coordinate)

    def publish(self, number: int) -> None:
        view = self.views[number]
        for name in (view.primary, view.backup):
            if name is not None:
                self.send("coordinator", name, self.to_server, name, number, Viewed(view))
        for member in view.members:
            who = (member.worker, member.incarnation)
            event = session.Viewed(view)
            self.send("coordinator", f"worker-{who[0]}", self.to_worker, who, number, event)

    def seat(self, member: Member | None, place: int) -> None:
        """Gives a place to a process, or takes it away."""
        if member is None:
            del self.members[place]
            self.workers.pop(place).alive = False
        else:
            self.members[place] = member
            self.start_worker(place, member.incarnation)
        members = tuple(self.members[place] for place in sorted(self.members))
        for number, view in enumerate(self.views):
            self.views[number] = View(
                view.number, view.roster + 1, view.primary, view.backup, members
            )
            self.publish(number)

    # Faults

    def is_spare(self, name: str) -> bool:
        """Whether every range survives without this server."""
        for number, view in enumerate(self.views):
            if name not in (view.primary, view.backup):
                continue
            other = view.backup if name == view.primary else view.primary
            if other is None or not self.servers[other].alive or other in self.isolated:
                return False
            if self.now - self.heard[other] > DEAD_AFTER / 2 or (
                self.silent[number] > DEAD_AFTER / 2
            ):
                # The coordinator may be about to do without it.
                return False
            state = self.servers[other].ranges.get(number)
            if state is None or not state.complete or state.number != view.number:
                return False
        return True

    def strike(self, kind: str, target: int) -> None:
        if kind == "worker":
            place = sorted(self.workers)[target % len(self.workers)]
            self.kill_worker(place)
            return
        view = self.views[target % self.num_ranges]
        name = view.primary if "primary" in kind else view.backup
        if name is None or name in self.isolated or not self.servers[name].alive:
            return
        if kind == "cut pair":
            self.num_faults += 1
            self.cut(name, view.primary)
            return
        if not self.is_spare(name):
            return
        self.num_faults += 1
        if kind.startswith("isolate"):
            self.isolated.add(name)
            self.after(self.random.uniform(0.1, 2.0), self.isolated.discard, name)
        elif kind == "forget primary":
            # Only workers still hear it.
            for other in {"coordinator", *self.servers} - {name}:
                self.cut(name, other)
        else:
            self.servers[name].alive = False
            # Its agent has seen the end of the process.
            self.after(self.random.uniform(0.01, 0.1), self.heard.pop, name, None)
            self.after(self.random.uniform(0.1, 1.0), self.start_server)

    def cut(self, one: str, other: str) -> None:
        pairs = {(one, other), (other, one)}
        self.cuts |= pairs
        self.after(self.random.uniform(0.1, 2.0), self.cuts.difference_update, pairs)

    def kill_worker(self, place: int) -> None:
        worker = self.workers[place]
        if not worker.alive or worker.is_done:
            return
        self.num_faults += 1
        worker.alive = False
        successor = Member(place, worker.incarnation + 1, self.members[place].start)
        self.after(self.random.uniform(0.01, 0.3), self.reseat, successor)

    def reseat(self, successor: Member) -> None:
        if successor.worker in self.members:
            self.seat(successor, successor.worker)


SYNCHRONOUS = Mode(Consistency.SYNCHRONOUS)
ASYNCHRONOUS = Mode(Consistency.ASYNCHRONOUS)
