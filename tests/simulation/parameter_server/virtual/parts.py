"""Servers and workers: real state machines, made-up tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtual.truth import Weights, digest

from reknit.parameter_server import session
from reknit.parameter_server.machine import handle
from reknit.parameter_server.messages import (
    Acknowledged,
    Joined,
    Kind,
    Pulled,
    Refused,
    Snapshot,
)
from reknit.parameter_server.state import (
    Apply,
    Event,
    Heard,
    Install,
    RangeState,
    Received,
    Send,
    Tell,
    Tick,
    Viewed,
    new_range,
)
from reknit.parameter_server.table import contributors

if TYPE_CHECKING:
    from virtual.world import World

TICK = 0.1


class Server:
    """A process that holds copies of ranges."""

    def __init__(self, world: World, name: str, skew: float) -> None:
        self.world, self.name, self.skew = world, name, skew
        self.alive = True
        self.ranges: dict[int, RangeState] = {}
        self.weights: dict[int, Weights] = {}
        world.after(world.random.random() * TICK, self.tick)

    def clock(self) -> float:
        """Its own time, which no other machine shares."""
        return self.world.now + self.skew

    def hold(self, number: int, *, initial: bool) -> None:
        state = new_range(self.name, self.world.mode, holds_since=1 if initial else None)
        self.ranges[number] = state
        self.weights[number] = self.world.truth.begin(number) if initial else Weights("none")

    def feed(self, number: int, event: Event) -> None:
        if not self.alive:
            return
        if isinstance(event, Viewed) and number not in self.ranges:
            if self.name not in (event.view.primary, event.view.backup):
                return
            self.hold(number, initial=False)
        if number not in self.ranges:
            return
        before = self.ranges[number]
        state, actions = handle(before, event, self.clock())
        self.ranges[number] = state
        version = before.applied.version
        for action in actions:
            match action:
                case Apply(update):
                    self.world.truth.apply(number, self.weights[number], version, update)
                    version += 1
                case Install(table, tensors):
                    assert isinstance(tensors, Weights)
                    self.weights[number] = tensors.copy()
                    version = table.version
                case Send(server, message):
                    copied = isinstance(message, Snapshot)
                    tensors = self.weights[number].copy() if copied else None
                    heard = Heard(message, tensors)
                    self.world.send(self.name, server, self.world.to_server, server, number, heard)
                case Tell():
                    self.tell(number, action, version)

    def tell(self, number: int, action: Tell, version: int) -> None:
        reply, content = action.reply, None
        state = self.ranges[number]
        if not isinstance(reply, Refused):
            assert self.clock() < state.lease_until
            self.world.truth.answers(number, state.number)
        if isinstance(reply, Pulled):
            weights = self.weights[number]
            content = weights.value if reply.version == version else weights.previous
            assert content == self.world.truth.weights[number, reply.version]
        target = (action.worker, action.incarnation)
        event = session.Replied(self.name, reply, content)
        worker = f"worker-{action.worker}"
        self.world.send(self.name, worker, self.world.to_worker, target, number, event)

    def tick(self) -> None:
        if self.alive:
            for number in tuple(self.ranges):
                self.feed(number, Tick())
            self.world.after(TICK, self.tick)


class Worker:
    """A process in one worker's place, from its start to its last clock."""

    def __init__(self, world: World, place: int, incarnation: int) -> None:
        self.world, self.place, self.incarnation = world, place, incarnation
        self.alive, self.is_through = True, False
        self.attempt = 0
        """Grows whenever what is under way becomes void."""
        self.requests: dict[tuple[int, int], tuple[Kind, int, int]] = {}
        """By range and number: kind, clock and attempt."""
        self.found: dict[tuple[Kind, int], dict[int, Any]] = {}
        """Answers by kind and clock, by range."""
        self.next_request = 0
        self.sessions = [
            session.Session(place, incarnation, world.mode.is_synchronous)
            for _ in range(world.num_ranges)
        ]
        self.join()
        world.after(world.random.random() * TICK, self.tick)

    @property
    def is_done(self) -> bool:
        return self.alive and self.is_through and not self.requests

    def feed(self, number: int, event: session.Event) -> None:
        if not self.alive:
            return
        self.sessions[number], actions = session.handle(
            self.sessions[number], event, self.world.now
        )
        void = False
        for action in actions:
            match action:
                case session.Transmit(server, request, content):
                    received = Received(request, content)
                    source = f"worker-{self.place}"
                    self.world.send(source, server, self.world.to_server, server, number, received)
                case session.Finish(request, reply, content):
                    self.finish(number, self.requests.pop((number, request)), reply, content)
                case session.Void(request):
                    del self.requests[number, request]
                    void = True
        if void:
            self.is_through = False
            self.join()

    def issue(self, kind: Kind, clock: int, content: object = None) -> None:
        if kind is not Kind.JOIN and any(each.is_void for each in self.sessions):
            self.join()
            return
        self.found[kind, clock] = {}
        attempt = self.attempt
        for number in range(self.world.num_ranges):
            if attempt != self.attempt:
                return
            self.next_request += 1
            self.requests[number, self.next_request] = (kind, clock, attempt)
            self.feed(number, session.Issue(self.next_request, kind, clock, content))

    def join(self) -> None:
        """Asks where to go on; what is under way does not matter any more."""
        self.attempt += 1
        self.issue(Kind.JOIN, 0)

    def finish(self, number: int, asked: tuple[Kind, int, int], reply: Any, content: Any) -> None:
        kind, clock, attempt = asked
        if isinstance(reply, Acknowledged):
            self.world.truth.acknowledged.add((number, self.place, clock))
        if isinstance(reply, Refused):
            self.alive = False
            self.world.fenced.append((self.place, self.incarnation, reply.reason))
            return
        if attempt != self.attempt:
            return
        answers = self.found[kind, clock]
        answers[number] = reply if isinstance(reply, Joined) else content
        if len(answers) < self.world.num_ranges:
            return
        if kind is Kind.JOIN:
            if len({joined.roster for joined in answers.values()}) > 1:
                self.join()
            else:
                self.issue(Kind.PULL, min(joined.clock for joined in answers.values()))
        elif kind is Kind.PULL and clock >= self.world.num_clocks:
            # In synchronous mode only this says that the last step counts everywhere.
            self.is_through = True
        elif kind is Kind.PULL:
            weights = tuple(answers[index] for index in range(self.world.num_ranges))
            view = self.sessions[0].view
            assert view is not None
            sharing = sorted(contributors(view.members, clock))
            gradient = digest(self.place, clock, weights, sharing)
            seconds = self.world.compute_seconds(self.place)
            self.world.after(seconds, self.computed, attempt, clock, gradient)

    def computed(self, attempt: int, clock: int, gradient: str) -> None:
        """Pushes, and pulls ahead while the push is under way."""
        if self.alive and attempt == self.attempt:
            self.issue(Kind.PUSH, clock, gradient)
        if self.alive and attempt == self.attempt:
            self.issue(Kind.PULL, clock + 1)

    def tick(self) -> None:
        if self.alive:
            for number in range(self.world.num_ranges):
                self.feed(number, session.Tick())
            self.world.after(TICK, self.tick)
