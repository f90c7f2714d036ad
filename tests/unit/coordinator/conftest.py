"""A membership driven by hand: messages in, actions out, time as it is told."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from reknit.coordinator import events
from reknit.coordinator.membership import handle
from reknit.coordinator.policy import Policy
from reknit.coordinator.state import new_membership
from reknit.protocol.agents import Begin, Exited, FromSlot, Heartbeat, Register, SlotReport, Stopped
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import ErrorReport, ExitClass, ProcessExit
from reknit.protocol.ranks import Failed, Finished, Phase, StepDone


class Driver:
    """A coordinator of two workers with one rank each, unless told otherwise."""

    def __init__(self, *, incarnation: int = 1, **rules: Any) -> None:
        defaults = {"num_workers": 2, "min_workers": 1, "processes_per_worker": 1}
        self.policy = Policy(**{**defaults, **rules})
        self.now = 1000.0
        self.state = new_membership(self.policy, incarnation, self.now)
        self.sent: list[tuple[int, Any]] = []
        self.hung_up: list[int] = []
        self.records: list[Any] = []
        self.stepped_down: list[int] = []
        self.port = 9000

    def feed(self, event: events.Event) -> list[Any]:
        """Returns the messages that were sent."""
        self.state, actions = handle(self.state, event, self.now)
        sent = []
        for action in actions:
            match action:
                case events.Send(connection, message):
                    self.sent.append((connection, message))
                    sent.append(message)
                case events.HangUp(connection):
                    self.hung_up.append(connection)
                case events.Write(record):
                    self.records.append(record)
                case events.StepDown(incarnation):
                    self.stepped_down.append(incarnation)
        return sent

    def hear(self, connection: int, message: Any) -> list[Any]:
        return self.feed(events.Received(connection, message))

    def endpoint(self) -> Endpoint:
        self.port += 1
        return Endpoint(host="10.0.0.1", port=self.port)

    def register(self, replica: int, *, name: str = "", connection: int = 0, **more: Any):
        message = Register(
            **{
                "agent": name or f"w{replica}",
                "replica": replica,
                "node": f"n{replica}",
                "host": f"10.0.0.{replica}",
                "num_slots": self.policy.processes_per_worker,
                "promised": 0,
                "store": self.endpoint(),
                "slots": (),
                **more,
            }
        )
        return self.hear(connection or replica + 1, message)

    def begin(self) -> Begin:
        """All workers register; returns what they are told."""
        for replica in range(self.policy.num_workers):
            self.register(replica)
        begins = [m for _, m in self.sent if isinstance(m, Begin)]
        assert len(begins) == self.policy.num_workers
        return begins[-1]

    @property
    def generation(self) -> Generation:
        assert self.state.current is not None
        return self.state.current.id

    def say(self, rank: int, message: Any) -> list[Any]:
        return self.hear(rank + 1, FromSlot(rank=rank, message=message))

    def step(self, step: int, *ranks: int, **more: Any) -> None:
        for rank in ranks or range(self.policy.num_workers):
            self.say(rank, StepDone(generation=self.generation, step=step, **more))

    def finish(self, rank: int, step: int = 9, *, left: bool = False) -> list[Any]:
        return self.say(rank, Finished(generation=self.generation, step=step, left=left))

    def fail(self, rank: int, text: str, exit_class=ExitClass.PROGRAM_ERROR) -> list[Any]:
        error = ErrorReport(exception=text, traceback=text, exit_class=exit_class)
        return self.say(rank, Failed(generation=self.generation, error=error))

    def exit(self, rank: int, exit_class=ExitClass.KILLED, **more: Any) -> list[Any]:
        ended = ProcessExit(exit_class=exit_class, **more)
        message = Exited(generation=self.generation, slot=0, rank=rank, exit=ended)
        return self.hear(rank + 1, message)

    def stop(self, *replicas: int) -> list[Any]:
        sent = []
        generation = self.state.last_generation
        for replica in replicas or range(self.policy.num_workers):
            sent += self.hear(replica + 1, Stopped(generation=generation, store=self.endpoint()))
        return sent

    def beat(self, replica: int, *slots: SlotReport) -> list[Any]:
        return self.hear(replica + 1, Heartbeat(slots=slots, store=self.endpoint()))

    def slot(self, rank: int, generation: Generation | None = None, **more: Any) -> SlotReport:
        place = {"slot": 0, "pid": 100 + rank, "phase": Phase.STEP, **more}
        return SlotReport(rank=rank, generation=generation or self.generation, **place)

    def wait(self, seconds: float, *beating: int) -> list[Any]:
        """Time passes with ticks, and heartbeats of these workers."""
        sent = []
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            for replica in beating:
                sent += self.beat(replica)
            sent += self.feed(events.Tick())
        return sent

    def feed_tick(self) -> list[Any]:
        return self.feed(events.Tick())

    def disconnect(self, replica: int) -> list[Any]:
        return self.feed(events.Disconnected(replica + 1))

    def reasons(self) -> list[str]:
        return [getattr(record, "reason", "step") for record in self.records]


@pytest.fixture
def drive() -> Callable[..., Driver]:
    return Driver


@pytest.fixture
def shrinking() -> Driver:
    """Three workers that may go on with fewer."""
    return Driver(num_workers=3, may_shrink=True, replacement_wait=timedelta(seconds=4))
