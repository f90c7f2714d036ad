"""Whatever comes in whatever order, the agent keeps its promises."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reknit.agent.events import (
    Connected,
    Disconnected,
    Ended,
    Exit,
    Kill,
    Launch,
    Ready,
    Received,
    Said,
    Send,
    Started,
    Terminated,
    Tick,
)
from reknit.agent.machine import handle
from reknit.agent.state import AgentState, Identity, new_state
from reknit.protocol.agents import Begin, Conclude, Drain, End, Exited, Place, Stopped, Welcome
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import Failed, Finished

STORE = Endpoint(host="10.0.0.1", port=5000)
GENERATIONS = st.builds(Generation, incarnation=st.integers(1, 3), counter=st.integers(1, 4))
PLACES = (Place(rank=0, agent="a", slot=0), Place(rank=1, agent="a", slot=1))
MESSAGES = st.one_of(
    st.builds(
        lambda generation: Begin(generation=generation, world_size=2, store=STORE, places=PLACES),
        GENERATIONS,
    ),
    st.builds(lambda generation: End(generation=generation, reason="x"), GENERATIONS),
    st.builds(lambda generation: Drain(generation=generation, reason="x"), GENERATIONS),
    st.builds(lambda incarnation: Welcome(incarnation=incarnation), st.integers(1, 3)),
)
CONCLUSIONS = st.builds(
    lambda incarnation: Conclude(
        incarnation=incarnation,
        conclusion=Conclusion(exit_class=ExitClass.SUCCEEDED, message="done"),
    ),
    st.integers(1, 3),
)
STEPS = st.lists(
    st.one_of(
        MESSAGES.map(Received),
        MESSAGES.map(Received),
        st.tuples(st.sampled_from(["end", "die", "fail", "finish"]), st.integers(0, 1)),
        st.sampled_from([Connected(), Disconnected(), Ready(), Tick()]),
        st.one_of(CONCLUSIONS.map(Received), st.just(Terminated())),
    ),
    max_size=40,
)


class World:
    """Processes as the launcher would run them, and what the agent may not do to them."""

    def __init__(self) -> None:
        identity = Identity(
            name="a",
            role="worker",
            replica=0,
            node="n",
            host="10.0.0.1",
            num_slots=2,
            is_command=False,
            heartbeat_seconds=0.2,
            grace_seconds=30.0,
        )
        self.state: AgentState = new_state(identity, STORE)
        self.now = 0.0
        self.running: dict[int, Launch] = {}
        self.killed: set[int] = set()
        self.newest = (0, 0)
        self.promised = 0
        self.exit: Exit | None = None
        self.is_leaving = False
        self.told: list[Any] = []

    def feed(self, event: Any) -> None:
        self.now += 0.1
        before = dict(self.running)
        if isinstance(event, Ended):
            del self.running[event.launch]
        self.state, actions = handle(self.state, event, self.now)
        assert not (self.exit and actions), "it has exited"
        for action in actions:
            self.check(action)
        if isinstance(event, Ended) and event.signal == 11 and not self.exit:
            launch = before[event.launch]
            self.check_told(launch)

    def check_told(self, launch: Launch) -> None:
        """A process that died by itself is reported, whatever else was going on."""
        assert (
            any(
                isinstance(message, Exited)
                and (message.generation, message.rank)
                == (launch.assign.generation, launch.assign.rank)
                for message in self.told
            )
            or launch.launch in self.killed
        )

    def check(self, action: Any) -> None:
        match action:
            case Launch(launch, assign):
                generation = assign.generation.key()
                assert launch not in self.running
                assert generation >= self.newest
                assert generation[0] >= self.promised
                same = all(
                    other.assign.generation == assign.generation
                    and other.assign.rank != assign.rank
                    for other in self.running.values()
                )
                assert same, "processes of an older generation still run"
                assert not self.is_leaving
                self.newest, self.promised = generation, generation[0]
                self.running[launch] = action
            case Kill(launch):
                assert launch in self.running
                self.killed.add(launch)
            case Send(Stopped(generation=generation) as message):
                assert all(
                    launch.assign.generation.key() > generation.key()
                    for launch in self.running.values()
                ), "a stopped generation still runs"
                self.told.append(message)
            case Send(message):
                self.told.append(message)
            case Exit():
                assert not self.running
                self.exit = action

    def act(self, what: str, slot: int) -> None:
        live = list(self.running)
        if slot >= len(live):
            return
        launch = live[slot]
        generation = self.running[launch].assign.generation
        match what:
            case "end":
                self.feed(Ended(launch, exit_code=0))
            case "die":
                self.feed(Ended(launch, signal=11))
            case "fail":
                error = ErrorReport(exception="ValueError", traceback="ValueError")
                self.feed(Said(launch, Failed(generation=generation, error=error)))
            case "finish":
                self.feed(Said(launch, Finished(generation=generation, step=1)))


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_promises(steps: list[Any]) -> None:
    world = World()
    for step in steps:
        if isinstance(step, tuple):
            world.act(*step)
            continue
        known = set(world.running)
        if isinstance(step, Terminated):
            world.is_leaving = True
        world.feed(step)
        for launch in world.running.keys() - known:
            world.feed(Started(launch, 1000 + launch))
        if world.exit:
            return
    # The end of every generation leaves nothing behind.
    world.feed(Received(End(generation=Generation(incarnation=9, counter=9), reason="x")))
    if not world.is_leaving:
        # Ranks that have failed are killed when they stay; a leaving agent has no time for that.
        world.now += 100.0
        world.feed(Tick())
        assert world.running.keys() <= world.killed
    for launch in list(world.running):
        world.feed(Ended(launch, signal=9))
    assert world.exit or any(
        isinstance(message, Stopped) and message.generation.key() == (9, 9)
        for message in world.told
    )
