from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from reknit.agent.events import (
    Action,
    Connected,
    Ended,
    Event,
    Execute,
    GivePlace,
    Launch,
    Ready,
    Received,
    Said,
    Send,
    Started,
    Tick,
)
from reknit.agent.machine import handle
from reknit.agent.state import AgentState, Identity, new_state
from reknit.protocol.agents import Begin, Place
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.ranks import Beat, Left, Phase

Kind = TypeVar("Kind")
STORE = Endpoint(host="10.0.0.1", port=5000)
BEAT = Beat(phase=Phase.STEP, step=4)


def generation(counter: int, incarnation: int = 1) -> Generation:
    return Generation(incarnation=incarnation, counter=counter)


def begin(counter: int = 1, *, incarnation: int = 1, first: str = "a", **fields: Any) -> Begin:
    """Two agents with two ranks each; `first` gets ranks 0 and 1."""
    second = "b" if first == "a" else "a"
    places = tuple(
        Place(
            rank=rank,
            agent=(first, second)[rank // 2],
            slot=rank % 2,
            host=f"h{rank // 2}",
            node=f"n{rank // 2}",
        )
        for rank in range(4)
    )
    store = fields.pop("store", STORE)
    return Begin(
        generation=generation(counter, incarnation), world_size=4, store=store, places=places
    )


class Driver:
    """Feeds events to the state machine of agent `a`, at a time that a test moves."""

    def __init__(self, *, is_command: bool = False, num_slots: int = 2) -> None:
        identity = Identity(
            name="a",
            role="worker",
            replica=0,
            node="n",
            host="10.0.0.1",
            num_slots=num_slots,
            is_command=is_command,
            heartbeat_seconds=0.2,
            dead_after_seconds=2.0,
            grace_seconds=30.0,
        )
        self.state: AgentState = new_state(identity, STORE)
        self.now = 100.0
        self.launches: list[int] = []
        self.places: list[GivePlace] = []

    def feed(self, *events: Event) -> list[Action]:
        """All actions that these events bring about."""
        actions: list[Action] = []
        for event in events:
            self.state, more = handle(self.state, event, self.now)
            actions += more
        self.launches += [a.launch for a in actions if isinstance(a, Launch | Execute)]
        self.places += [action for action in actions if isinstance(action, GivePlace)]
        return actions

    def sent(self, *events: Event) -> list[Any]:
        """What the coordinator is told when these events happen."""
        return [action.message for action in self.feed(*events) if isinstance(action, Send)]

    def run(self, counter: int = 1, **fields: Any) -> list[int]:
        """Connected and ready, with the running processes of a generation."""
        self.feed(Connected(), Ready(), Received(begin(counter, **fields)))
        own = self.launches[-2:]
        self.feed(*(Started(launch, 1000 + launch) for launch in own))
        return own

    def tick(self, seconds: float, *beating: int) -> list[Action]:
        """Time passes with heartbeats of these processes."""
        actions: list[Action] = []
        for _ in range(round(seconds / 0.2)):
            self.now += 0.2
            actions += self.feed(*(Said(launch, BEAT) for launch in beating), Tick())
        return actions

    def leave(self, *launches: int, counter: int = 1, step: int = 4) -> list[Action]:
        """These processes say that they have left a generation."""
        return self.feed(
            *(Said(launch, Left(generation=generation(counter), step=step)) for launch in launches)
        )

    def say(self, launch: int, message: Any) -> list[Action]:
        return self.feed(Said(launch, message))

    def kill_all(self) -> list[Action]:
        """The processes that were killed are gone."""
        live = [slot.launch for slot in self.state.live if slot.launch is not None]
        return self.feed(*(Ended(launch, signal=9) for launch in live))


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def make_driver() -> Callable[..., Driver]:
    return Driver


@pytest.fixture
def make_begin() -> Callable[..., Begin]:
    return begin
