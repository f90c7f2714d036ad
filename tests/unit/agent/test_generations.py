from collections.abc import Callable
from typing import Any

from reknit.agent.events import (
    Connected,
    Disconnected,
    Ended,
    Execute,
    Exit,
    GivePlace,
    HangUp,
    Kill,
    Launch,
    Offered,
    Ready,
    Received,
    Said,
    Send,
    Tell,
    Tick,
)
from reknit.agent.state import RECENT_STEPS
from reknit.protocol.agents import (
    Begin,
    Drain,
    End,
    FromSlot,
    Heartbeat,
    Register,
    Stopped,
    Welcome,
)
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import ErrorReport, ExitClass
from reknit.protocol.ranks import Beat, Failed, Finished, Leave, Left, Phase, StepDone

MakeBegin = Callable[..., Begin]
FIRST = Generation(incarnation=1, counter=1)
SECOND = Generation(incarnation=1, counter=2)


def launches(actions: list[Any]) -> list[Launch]:
    return [action for action in actions if isinstance(action, Launch)]


def places(actions: list[Any]) -> list[GivePlace]:
    return [action for action in actions if isinstance(action, GivePlace)]


def test_an_agent_introduces_itself_on_every_connection(driver: Any) -> None:
    register = Register(
        agent="a",
        replica=0,
        node="n",
        host="10.0.0.1",
        num_slots=2,
        promised=0,
        store=driver.state.store,
        slots=driver.state.reports(driver.now),
    )
    assert driver.sent(Connected()) == [register]


def test_places_are_turned_into_processes(driver: Any, make_begin: MakeBegin) -> None:
    begun = make_begin(first="b")
    actions = driver.feed(Connected(), Ready(), Received(begun))
    started = places(actions)
    assert [s.launch for s in started] == [launched.launch for launched in launches(actions)]
    assert [(s.assign.rank, s.assign.local_rank, s.hosts_store) for s in started] == [
        (2, 0, False),
        (3, 1, False),
    ]
    assert {(s.assign.world_size, s.assign.local_world_size) for s in started} == {(4, 2)}
    assert {s.assign.group_rank for s in started} == {1}
    assert {s.assign.hosts for s in started} == {("h0", "h0", "h1", "h1")}
    assert {s.assign.nodes for s in started} == {("n0", "n0", "n1", "n1")}
    assert {s.assign.store for s in started} == {begun.store}


def test_only_rank_0_gets_the_listener_on_offer(driver: Any, make_begin: MakeBegin) -> None:
    started = places(driver.feed(Ready(), Received(make_begin())))
    assert [(s.assign.rank, s.hosts_store) for s in started] == [(0, True), (1, False)]


def test_a_new_offer_is_told_at_once(driver: Any) -> None:
    driver.run()
    fresh = Endpoint(host="10.0.0.1", port=6000)
    [beat] = driver.sent(Offered(fresh))
    assert isinstance(beat, Heartbeat)
    assert beat.store == fresh


def test_a_store_that_is_no_longer_on_offer_is_refused(driver: Any, make_begin: MakeBegin) -> None:
    other = Endpoint(host="10.0.0.1", port=1)
    actions = driver.feed(Ready(), Received(make_begin(store=other)))
    exits = [action.message for action in actions if isinstance(action, Send)]
    assert launches(actions) == []
    assert [(e.rank, e.exit.exit_class) for e in exits] == [
        (0, ExitClass.INFRASTRUCTURE),
        (1, ExitClass.INFRASTRUCTURE),
    ]


def test_the_store_of_another_agent_need_not_be_on_offer_here(
    driver: Any, make_begin: MakeBegin
) -> None:
    other = Endpoint(host="10.0.0.2", port=1)
    assert len(launches(driver.feed(Ready(), Received(make_begin(first="b", store=other))))) == 2


def test_processes_wait_for_the_forkserver(driver: Any, make_begin: MakeBegin) -> None:
    assert launches(driver.feed(Connected(), Received(make_begin()))) == []
    assert [(slot.rank, slot.pid, slot.phase) for slot in driver.state.reports(driver.now)] == [
        (0, None, "Starting"),
        (1, None, "Starting"),
    ]
    assert len(launches(driver.feed(Ready()))) == 2


def test_a_spare_starts_nothing(make_driver: Any) -> None:
    driver = make_driver(num_slots=1)
    begun = Begin(generation=FIRST, world_size=1, store=driver.state.store, places=())
    assert driver.feed(Connected(), Ready(), Received(begun))[1:] == []
    assert driver.state.generation == FIRST


def test_what_is_wrong_with_the_users_part_is_reported_for_every_rank(
    driver: Any, make_begin: MakeBegin
) -> None:
    error = ErrorReport(
        exception="no field x", traceback="no field x", exit_class=ExitClass.CONFIGURATION
    )
    exits = driver.sent(Ready(error), Received(make_begin()))
    assert [(e.rank, e.slot, e.generation) for e in exits] == [(0, 0, FIRST), (1, 1, FIRST)]
    assert {e.exit.exit_class for e in exits} == {ExitClass.CONFIGURATION}
    assert {(e.exit.exit_code, e.exit.error) for e in exits} == {(2, error)}


def test_stale_words_change_nothing(driver: Any, make_begin: MakeBegin) -> None:
    driver.run(counter=3, incarnation=2)
    before = driver.state
    for message in (
        make_begin(3, incarnation=2),
        make_begin(2, incarnation=2),
        make_begin(9, incarnation=1),
        End(generation=Generation(incarnation=1, counter=9), reason="old"),
        End(generation=Generation(incarnation=2, counter=2), reason="old"),
        Drain(generation=Generation(incarnation=2, counter=2), reason="old"),
    ):
        actions = driver.feed(Received(message))
        assert not any(isinstance(a, Kill | Launch | Tell | Send) for a in actions), message
        assert driver.state == before


def test_a_replaced_coordinator_is_left(driver: Any) -> None:
    driver.feed(Connected(), Received(Welcome(incarnation=5)))
    assert driver.state.promised == 5
    assert any(isinstance(a, HangUp) for a in driver.feed(Received(Welcome(incarnation=4))))
    assert driver.state.promised == 5


def test_a_welcome_leaves_the_running_generation_alone(driver: Any) -> None:
    driver.run()
    assert driver.feed(Received(Welcome(incarnation=7))) == []
    assert len(driver.state.live) == 2


def test_an_ended_generation_is_killed_and_reported_as_stopped(driver: Any) -> None:
    own = driver.run()
    actions = driver.feed(Received(End(generation=FIRST, reason="fault")))
    assert actions == [Kill(launch) for launch in own]
    assert driver.sent(Ended(own[0], signal=9)) == []
    assert driver.sent(Ended(own[1], signal=9)) == [
        Stopped(generation=FIRST, store=driver.state.store)
    ]
    assert all(slot.generation is None for slot in driver.state.slots)


def test_an_end_can_be_told_twice(driver: Any) -> None:
    driver.run()
    end = Received(End(generation=FIRST, reason="fault"))
    driver.feed(end)
    assert driver.feed(end) == []
    driver.kill_all()
    assert [type(message) for message in driver.sent(end)] == [Stopped]


def test_the_end_of_a_generation_never_heard_of_ends_older_ones(
    driver: Any, make_begin: MakeBegin
) -> None:
    driver.run()
    driver.feed(Received(End(generation=SECOND, reason="fault")))
    [stopped] = [a.message for a in driver.kill_all() if isinstance(a, Send)]
    assert stopped.generation == SECOND
    assert launches(driver.feed(Received(make_begin(2)))) == []
    assert len(launches(driver.feed(Received(make_begin(3))))) == 2


def test_an_end_before_any_process_exists_is_answered_at_once(
    driver: Any, make_begin: MakeBegin
) -> None:
    driver.feed(Connected(), Received(make_begin()))
    [stopped] = driver.sent(Received(End(generation=FIRST, reason="fault")))
    assert stopped.generation == FIRST
    assert launches(driver.feed(Ready())) == []


def test_older_commands_are_gone_before_newer_ones_start(
    make_driver: Any, make_begin: MakeBegin
) -> None:
    driver = make_driver(is_command=True)
    own = driver.run()
    actions = driver.feed(Received(make_begin(2)))
    assert actions == [Kill(launch) for launch in own]
    assert driver.feed(Ended(own[0], signal=9)) == []
    started = [a for a in driver.feed(Ended(own[1], signal=9)) if isinstance(a, Execute)]
    assert [s.assign.generation for s in started] == [SECOND, SECOND]
    assert [s.hosts_store for s in started] == [True, False]
    assert set(own).isdisjoint(s.launch for s in started)


def test_an_exit_is_reported_and_the_others_go_on(driver: Any) -> None:
    own = driver.run()
    [exited] = driver.sent(Ended(own[1], signal=11))
    assert (exited.rank, exited.slot, exited.generation) == (1, 1, FIRST)
    assert (exited.exit.exit_class, exited.exit.signal) == (ExitClass.KILLED, 11)
    assert [slot.pid for slot in driver.state.reports(driver.now)] == [1000 + own[0], None]


def test_a_rank_that_has_said_why_it_failed_may_exit_by_itself(driver: Any) -> None:
    own = driver.run()
    error = ErrorReport(exception="ValueError: x", traceback="...")
    driver.say(own[0], Failed(generation=FIRST, error=error))
    actions = driver.feed(Received(End(generation=FIRST, reason="fault")))
    assert actions == [Kill(own[1])]
    driver.feed(Ended(own[1], signal=9))
    exited, stopped = driver.sent(Ended(own[0], exit_code=1))
    assert (exited.exit.exit_class, exited.exit.error) == (ExitClass.PROGRAM_ERROR, error)
    assert isinstance(stopped, Stopped)


def test_what_ranks_say_is_passed_on_and_stale_words_are_not(driver: Any) -> None:
    own = driver.run(counter=2)
    said = StepDone(generation=SECOND, step=4)
    assert driver.sent(Said(own[1], said)) == [FromSlot(rank=1, message=said)]
    assert driver.sent(Said(own[1], StepDone(generation=FIRST, step=9))) == []
    assert driver.sent(Said(99, said)) == []
    assert driver.state.slots[1].step == 4


def test_a_drain_tells_ranks_to_leave_once(driver: Any) -> None:
    own = driver.run()
    drain = Received(Drain(generation=FIRST, reason="node drained"))
    assert driver.feed(drain) == [Tell(launch, Leave(reason="node drained")) for launch in own]
    assert driver.feed(drain) == []


def test_a_later_coordinator_hears_what_became_of_the_ranks(driver: Any) -> None:
    own = driver.run()
    finished = Finished(generation=FIRST, step=9, left=True)
    driver.say(own[0], finished)
    [exited] = driver.sent(Ended(own[1], signal=9, out_of_memory=True))
    register, *rest = driver.sent(Connected())
    assert rest == [FromSlot(rank=0, message=finished), exited]
    assert (register.generation, register.world_size, register.promised) == (FIRST, 4, 1)
    assert [(s.finished, s.left, s.pid) for s in register.slots] == [
        (True, True, 1000 + own[0]),
        (False, False, None),
    ]


def test_a_later_coordinator_hears_that_nothing_runs(driver: Any) -> None:
    driver.run()
    driver.feed(Received(End(generation=FIRST, reason="fault")))
    driver.kill_all()
    register, stopped = driver.sent(Connected())
    assert register.generation is None
    assert stopped == Stopped(generation=FIRST, store=driver.state.store)


def test_nothing_happens_after_the_exit(driver: Any, make_begin: MakeBegin) -> None:
    from reknit.agent.events import Terminated

    assert any(isinstance(a, Exit) for a in driver.feed(Terminated()))
    assert driver.feed(Ready(), Received(make_begin()), Connected()) == []


def test_a_new_coordinator_is_told_of_the_latest_steps(driver: Any) -> None:
    own = driver.run()
    first = StepDone(generation=FIRST, step=5, metrics={"loss": 1.0})
    for launch in own:
        driver.say(launch, first)
    driver.feed(Disconnected())
    for step in range(6, 6 + RECENT_STEPS):
        driver.say(own[0], first.model_copy(update={"step": step}))
    [register] = [m for m in driver.sent(Connected()) if isinstance(m, Register)]
    told = [(said.rank, said.message.step) for said in register.recent]
    newest = 5 + RECENT_STEPS
    assert told == [
        *((0, step) for step in range(newest + 1 - RECENT_STEPS // 2, newest + 1)),
        (1, 5),
    ]
    assert register.recent[0].message.metrics == {"loss": 1.0}
    assert [(slot.start, slot.step) for slot in register.slots] == [(4, newest), (4, 5)]


def test_how_far_a_rank_has_come_goes_with_the_heartbeats_until_it_leaves(driver: Any) -> None:
    own = driver.run()
    driver.say(own[0], Beat(phase=Phase.STEP, step=4, place=70))
    [beat] = driver.sent(Tick())
    assert [(slot.step, slot.place) for slot in beat.slots] == [(4, 70), (0, 0)]
    driver.say(own[0], Left(generation=FIRST, step=4))
    assert [slot.place for slot in driver.state.reports(driver.now)] == [0, 0]
