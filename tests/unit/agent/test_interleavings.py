"""Whatever comes in whatever order, the agent keeps its promises."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reknit.agent.events import (
    Connected,
    Disconnected,
    Ended,
    Exit,
    GivePlace,
    Kill,
    Launch,
    Ready,
    Received,
    Said,
    Send,
    Started,
    Tell,
    Terminated,
    Tick,
)
from reknit.agent.machine import handle
from reknit.agent.state import AgentState, Identity, new_state
from reknit.protocol.agents import Begin, Conclude, Drain, End, Exited, Place, Stopped, Welcome
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import (
    Abort,
    Assign,
    Beat,
    Failed,
    Finished,
    Left,
    Parked,
    PeerLost,
    Phase,
    StepDone,
)

STORE = Endpoint(host="10.0.0.1", port=5000)
GENERATIONS = st.builds(Generation, incarnation=st.integers(1, 3), counter=st.integers(1, 4))
PLACES = (Place(rank=0, agent="a", slot=0), Place(rank=1, agent="a", slot=1))
MESSAGES = st.one_of(
    st.builds(
        lambda generation: Begin(generation=generation, world_size=2, store=STORE, places=PLACES),
        GENERATIONS,
    ),
    st.builds(
        lambda generation, keep, failed: End(
            generation=generation, reason="x", keep=keep, failed=failed
        ),
        GENERATIONS,
        st.booleans(),
        st.sampled_from([(), (0,), (1,)]),
    ),
    st.builds(
        lambda generation, stay, leaving: Drain(
            generation=generation, reason="x", stay=stay, leaving=leaving
        ),
        GENERATIONS,
        st.booleans(),
        st.sampled_from([(), ("a",), ("b",)]),
    ),
    st.builds(lambda incarnation: Welcome(incarnation=incarnation), st.integers(1, 3)),
)
CONCLUSIONS = st.builds(
    lambda incarnation: Conclude(
        incarnation=incarnation,
        conclusion=Conclusion(exit_class=ExitClass.SUCCEEDED, message="done"),
    ),
    st.integers(1, 3),
)
ACTS = ["end", "die", "fail", "finish", "step", "leave", "leave", "move", "park", "beat", "lose"]
STEPS = st.lists(
    st.one_of(
        MESSAGES.map(Received),
        MESSAGES.map(Received),
        st.tuples(st.sampled_from(ACTS), st.integers(0, 2)),
        st.tuples(st.sampled_from(ACTS), st.integers(0, 2)),
        st.sampled_from([Connected(), Disconnected(), Ready(), Tick()]),
        st.one_of(CONCLUSIONS.map(Received), st.just(Terminated())),
    ),
    max_size=60,
)


@dataclass
class Process:
    """A process as the launcher would run it."""

    assign: Assign | None = None
    aborted: Generation | None = None
    left: Generation | None = None
    is_killed: bool = False

    @property
    def is_acting(self) -> bool:
        """It has a place in a generation that it has not left."""
        return self.assign is not None and self.left != self.assign.generation


class World:
    """Processes, and what the agent may not do to them."""

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
            dead_after_seconds=2.0,
            grace_seconds=30.0,
        )
        self.state: AgentState = new_state(identity, STORE)
        self.now = 0.0
        self.running: dict[int, Process] = {}
        self.newest = (0, 0)
        self.promised = 0
        self.exit: Exit | None = None
        self.is_leaving = False
        self.told: list[Any] = []

    def feed(self, event: Any) -> None:
        self.now += 0.1
        before = self.running.pop(event.launch) if isinstance(event, Ended) else None
        self.state, actions = handle(self.state, event, self.now)
        assert not (self.exit and actions), "it has exited"
        for action in actions:
            self.check(action)
        if before is not None and event.signal == 11 and not self.exit:
            self.check_told(before)

    def check_told(self, process: Process) -> None:
        """The death of a process that acted in a generation is reported, whatever else went on."""
        assign = process.assign
        if assign is None or not process.is_acting or process.is_killed:
            return
        assert any(
            isinstance(message, Exited)
            and (message.generation, message.rank) == (assign.generation, assign.rank)
            for message in self.told
        )

    def check(self, action: Any) -> None:
        match action:
            case Launch(launch):
                assert launch not in self.running
                assert not self.is_leaving
                self.running[launch] = Process()
                assert len(self.running) <= 3
            case GivePlace(launch, assign):
                self.check_place(self.running[launch], assign)
            case Tell(launch, Abort(generation=generation)):
                process = self.running[launch]
                assert process.assign is not None
                assert process.assign.generation == generation
                assert process.is_acting, "it has left already"
                assert process.aborted != generation, "told twice"
                process.aborted = generation
            case Kill(launch):
                self.running[launch].is_killed = True
            case Send(Stopped(generation=generation) as message):
                assert all(
                    process.assign.generation.key() > generation.key()
                    for process in self.running.values()
                    if process.is_acting and process.assign is not None
                ), "a stopped generation still runs"
                self.told.append(message)
            case Send(message):
                self.told.append(message)
            case Exit():
                assert not self.running
                self.exit = action

    def check_place(self, process: Process, assign: Assign) -> None:
        generation = assign.generation.key()
        assert generation >= self.newest
        assert generation[0] >= self.promised
        assert not process.is_acting, "it still acts in another generation"
        assert not process.is_killed
        for other in self.running.values():
            if other.is_acting and other.assign is not None:
                assert other.assign.generation == assign.generation, "an older generation runs"
                assert other.assign.rank != assign.rank
        assert not self.is_leaving
        self.newest, self.promised = generation, generation[0]
        process.assign = assign

    def act(self, what: str, slot: int) -> None:
        live = list(self.running)
        if slot >= len(live):
            return
        launch = live[slot]
        process = self.running[launch]
        if what in ("end", "die"):
            self.feed(Ended(launch, exit_code=0) if what == "end" else Ended(launch, signal=11))
        elif what == "beat":
            self.feed(Said(launch, Beat(phase=Phase.STEP, step=1)))
        elif process.assign is None:
            self.feed(Said(launch, Parked()))
        elif what == "leave" and process.aborted == process.assign.generation:
            process.left = process.aborted
            self.feed(Said(launch, Left(generation=process.aborted, step=1)))
        elif what == "move" and process.is_acting:
            # All ranks leave at a step boundary, told so by this agent or by another one.
            process.left = process.assign.generation
            self.feed(Said(launch, Left(generation=process.left, step=1)))
        elif process.is_acting or what == "finish":
            self.feed(Said(launch, self.words(what, process.assign.generation)))

    def words(self, what: str, generation: Generation) -> Any:
        match what:
            case "fail":
                error = ErrorReport(exception="ValueError", traceback="ValueError")
                return Failed(generation=generation, error=error)
            case "finish":
                return Finished(generation=generation, step=1)
            case "lose":
                return PeerLost(generation=generation)
            case _:
                return StepDone(generation=generation, step=1)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_promises(steps: list[Any]) -> None:
    world = World()
    for step in steps:
        if isinstance(step, tuple):
            known = set(world.running)
            world.act(*step)
        else:
            known = set(world.running)
            if isinstance(step, Terminated):
                world.is_leaving = True
            world.feed(step)
        for launch in world.running.keys() - known:
            world.feed(Started(launch, 1000 + launch))
        if world.exit:
            return
    # The end of every generation leaves nothing that acts.
    world.feed(Received(End(generation=Generation(incarnation=9, counter=9), reason="x")))
    if not world.is_leaving:
        # Ranks that have failed are killed when they stay; a leaving agent has no time for that.
        world.feed(Tick())
        for _ in range(100):
            world.now += 0.3
            world.feed(Tick())
        placed = [process for process in world.running.values() if process.assign is not None]
        assert all(process.is_killed for process in placed)
    for launch in list(world.running):
        world.feed(Ended(launch, signal=9))
    assert world.exit or any(
        isinstance(message, Stopped) and message.generation.key() == (9, 9)
        for message in world.told
    )
