"""Processes that leave a generation and take their places in the next one."""

from collections.abc import Callable
from typing import Any

import pytest

from reknit.agent.aborting import LEAVE_SECONDS
from reknit.agent.events import (
    Connected,
    Disconnected,
    Ended,
    Exit,
    GivePlace,
    Kill,
    Launch,
    Log,
    Received,
    Said,
    Send,
    Tell,
    Terminated,
)
from reknit.protocol.agents import Begin, Conclude, Drain, End, Exited, FromSlot, Register, Stopped
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import (
    Abort,
    Beat,
    Failed,
    Finished,
    Leave,
    Left,
    PeerLost,
    Phase,
    Release,
    StepDone,
)

MakeBegin = Callable[..., Begin]
FIRST = Generation(incarnation=1, counter=1)
SECOND = Generation(incarnation=1, counter=2)


def keep(generation: Generation = FIRST, **fields: Any) -> Received:
    return Received(End(generation=generation, reason="rank 3 is gone", keep=True, **fields))


def unlogged(actions: list[Any]) -> list[Any]:
    return [action for action in actions if not isinstance(action, Log)]


def stopped(driver: Any, generation: Generation = FIRST) -> list[Any]:
    return [Send(Stopped(generation=generation, store=driver.state.store))]


def abort(launch: int) -> Tell:
    return Tell(launch, Abort(generation=FIRST, reason="rank 3 is gone"))


def test_survivors_leave_and_take_the_same_slots_in_the_next_generation(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    assert driver.feed(keep()) == [abort(launch) for launch in own]
    assert unlogged(driver.leave(own[0])) == []
    assert unlogged(driver.leave(own[1])) == stopped(driver)
    assert [
        (slot.pid, slot.generation, slot.rank) for slot in driver.state.reports(driver.now)
    ] == [
        (1000 + own[0], None, None),
        (1000 + own[1], None, None),
    ]
    actions = driver.feed(Received(make_begin(2, first="b")))
    assert [type(action) for action in actions] == [GivePlace, GivePlace]
    assert [(a.launch, a.assign.generation, a.assign.rank, a.hosts_store) for a in actions] == [
        (own[0], SECOND, 2, False),
        (own[1], SECOND, 3, False),
    ]
    assert [(slot.pid, slot.rank) for slot in driver.state.reports(driver.now)] == [
        (1000 + own[0], 2),
        (1000 + own[1], 3),
    ]


def test_the_place_of_a_dead_process_goes_to_a_new_one(driver: Any, make_begin: MakeBegin) -> None:
    own = driver.run()
    driver.feed(Ended(own[0], signal=9), keep())
    driver.leave(own[1])
    actions = driver.feed(Received(make_begin(2)))
    new = driver.launches[-1]
    assert actions[0] == Launch(new)
    assert [(a.launch, a.assign.rank, a.hosts_store) for a in actions[1:]] == [
        (new, 0, True),
        (own[1], 1, False),
    ]
    # Only the new process still has to import.
    driver.tick(2.0)
    assert [slot.silent_seconds for slot in driver.state.reports(driver.now)] == [
        0.0,
        pytest.approx(2.0),
    ]


def test_ranks_at_fault_are_killed_at_once_and_the_others_live_on(driver: Any) -> None:
    own = driver.run()
    assert driver.feed(keep(failed=(1,))) == [Kill(own[1]), abort(own[0])]
    assert unlogged(driver.leave(own[0])) == []
    assert driver.feed(Ended(own[1], signal=9)) == stopped(driver)
    assert [slot.pid for slot in driver.state.reports(driver.now)] == [1000 + own[0], None]


def test_a_second_end_convicts_a_rank_that_was_to_live_on(driver: Any) -> None:
    own = driver.run()
    driver.feed(keep())
    assert driver.feed(keep(failed=(0,))) == [Kill(own[0])]


def test_a_rank_that_does_not_leave_in_time_is_killed(driver: Any) -> None:
    own = driver.run()
    driver.say(own[0], StepDone(generation=FIRST, step=1, seconds={"total": 1.0}))
    driver.feed(keep())
    driver.leave(own[0])
    # What a step takes is added three times: it may compute that long before it notices.
    assert Kill(own[1]) not in driver.tick(LEAVE_SECONDS + 3.0 - 0.2, *own)
    assert Kill(own[1]) in driver.tick(0.4, *own)
    assert driver.feed(Ended(own[1], signal=9)) == stopped(driver)


def test_a_stopped_rank_is_not_waited_for_longer_than_any_silent_one(driver: Any) -> None:
    own = driver.run()
    driver.tick(0.4, *own)
    driver.feed(keep())
    driver.leave(own[0])
    assert Kill(own[1]) not in driver.tick(1.8, own[0])
    assert Kill(own[1]) in driver.tick(0.4, own[0])


def test_a_survivor_that_falls_silent_while_it_waits_is_replaced(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    assert Kill(own[1]) in driver.tick(2.4, own[0])
    assert unlogged(driver.feed(Received(make_begin(2)))) == []
    actions = unlogged(driver.feed(Ended(own[1], signal=9)))
    assert [a.launch for a in actions if isinstance(a, GivePlace)] == [own[0], driver.launches[-1]]


def test_a_pause_of_the_agent_kills_no_survivor(driver: Any) -> None:
    own = driver.run()
    driver.tick(0.2, *own)
    driver.feed(keep())
    driver.leave(own[0])
    driver.now += 60.0
    actions = driver.tick(0.2)
    assert not any(isinstance(action, Kill) for action in actions)


def test_a_survivor_that_dies_while_it_waits_is_simply_gone(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    assert unlogged(driver.feed(Ended(own[0], signal=9))) == []
    actions = driver.feed(Received(make_begin(2)))
    assert [a.launch for a in actions if isinstance(a, GivePlace)] == [driver.launches[-1], own[1]]


def test_a_survivor_that_dies_in_its_new_place_is_reported(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    driver.feed(Received(make_begin(2)))
    [exited] = driver.sent(Ended(own[0], signal=9))
    assert (exited.generation, exited.rank, exited.exit.signal) == (SECOND, 0, 9)


def test_a_rank_that_dies_before_it_has_left_is_reported(driver: Any) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(own[0])
    exited, end = driver.sent(Ended(own[1], signal=9))
    assert isinstance(exited, Exited)
    assert isinstance(end, Stopped)


def test_a_failed_rank_exits_by_itself_and_the_others_live_on(driver: Any) -> None:
    own = driver.run()
    error = ErrorReport(exception="ValueError: x", traceback="...")
    driver.say(own[1], Failed(generation=FIRST, error=error))
    assert driver.feed(keep(failed=(1,))) == [abort(own[0])]
    driver.leave(own[0])
    assert [type(m) for m in driver.sent(Ended(own[1], exit_code=1))] == [Exited, Stopped]


def test_words_about_another_generation_are_not_believed(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run(counter=2)
    driver.feed(keep(SECOND))
    assert unlogged(driver.leave(*own, counter=1)) == []
    assert unlogged(driver.leave(*own, counter=2)) == stopped(driver, SECOND)
    driver.feed(Received(make_begin(3)))
    assert unlogged(driver.leave(*own, counter=2)) == []
    assert driver.sent(Said(own[0], StepDone(generation=SECOND, step=9))) == []


def test_a_step_that_survivors_complete_is_passed_on(driver: Any) -> None:
    """They had passed the gate when the generation ended."""
    own = driver.run()
    driver.feed(keep())
    done = StepDone(generation=FIRST, step=5)
    assert driver.sent(Said(own[0], done)) == [FromSlot(rank=0, message=done)]


def test_an_end_without_mercy_ends_survivors_too(driver: Any, make_begin: MakeBegin) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    actions = driver.feed(Received(End(generation=FIRST, reason="they are out of date")))
    assert actions == [*stopped(driver), *(Kill(launch) for launch in own)]
    driver.feed(Received(make_begin(2)))
    driver.kill_all()
    assert [place.launch for place in driver.places[-2:]] == driver.launches[-2:]


def test_a_generation_whose_predecessors_end_was_missed_waits_for_its_ranks(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    actions = driver.feed(Received(make_begin(2)))
    assert [type(action.message) for action in actions] == [Abort, Abort]
    assert unlogged(driver.leave(own[0])) == []
    actions = unlogged(driver.leave(own[1]))
    assert [(a.launch, a.assign.generation) for a in actions] == [(n, SECOND) for n in own]


def test_a_drain_meanwhile_reaches_the_ranks_in_their_new_places(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    driver.feed(Received(make_begin(2)), Received(Drain(generation=SECOND, reason="node drained")))
    driver.leave(own[0])
    actions = driver.leave(own[1])
    told = [a for a in actions if isinstance(a, Tell)]
    assert told == [Tell(launch, Leave(reason="node drained")) for launch in own]


def test_a_later_coordinator_does_not_take_a_generation_over_that_ranks_are_leaving(
    driver: Any,
) -> None:
    own = driver.run()
    driver.feed(Disconnected(), keep())
    driver.leave(own[0])
    [register] = driver.sent(Connected())
    assert register.generation == FIRST
    assert [(slot.pid, slot.rank) for slot in register.slots] == [
        (1000 + own[0], None),
        (1000 + own[1], None),
    ]
    driver.leave(own[1])
    register, end = driver.sent(Connected())
    assert isinstance(register, Register)
    assert register.generation is None
    assert end.generation == FIRST


def test_a_lost_peer_is_passed_on_and_remembered_for_later_coordinators(driver: Any) -> None:
    own = driver.run()
    lost = PeerLost(generation=FIRST)
    assert driver.sent(Said(own[1], lost)) == [FromSlot(rank=1, message=lost)]
    assert [slot.peer_lost for slot in driver.state.reports(driver.now)] == [False, True]
    driver.feed(keep())
    driver.leave(*own)
    assert [slot.peer_lost for slot in driver.state.reports(driver.now)] == [False, False]


def test_a_rank_that_has_finished_leaves_like_any_other(driver: Any, make_begin: MakeBegin) -> None:
    own = driver.run()
    driver.say(own[0], Finished(generation=FIRST, step=9))
    assert driver.feed(keep()) == [abort(launch) for launch in own]
    driver.leave(*own)
    driver.feed(Received(make_begin(2)))
    assert [slot.finished for slot in driver.state.reports(driver.now)] == [False, False]


def test_survivors_are_killed_with_a_job_that_ends_without_them(driver: Any) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    broken = Conclusion(exit_class=ExitClass.PROGRAM_ERROR, message="ValueError: x")
    conclude = Received(Conclude(incarnation=1, conclusion=broken))
    assert driver.feed(conclude) == [Kill(launch) for launch in own]
    assert [a for a in driver.kill_all() if isinstance(a, Exit)] == [Exit(broken, 1)]


def test_survivors_of_a_pod_that_goes_say_what_is_lost_with_them(driver: Any) -> None:
    own = driver.run()
    driver.feed(Connected(), keep())
    driver.leave(own[0])
    actions = driver.feed(Terminated())
    leave = Leave(reason="the pod is being terminated")
    assert [a for a in actions if isinstance(a, Tell)] == [Tell(own[0], leave)]
    assert Tell(own[1], leave) in driver.leave(own[1])
    lost = "steps 5 to 9 are in memory alone"
    actions = []
    for launch in own:
        finished = Finished(generation=FIRST, step=9, left=True, unsaved=lost)
        actions += driver.say(launch, finished)
    assert [a for a in actions if isinstance(a, Kill | Tell)] == [Kill(n) for n in own]
    [exit_] = [a for a in driver.kill_all() if isinstance(a, Exit)]
    assert (exit_.code, exit_.conclusion.unsaved) == (143, lost)


def test_a_drain_of_the_generation_before_hides_no_sigterm(driver: Any) -> None:
    own = driver.run()
    driver.feed(Received(Drain(generation=FIRST, reason="worker 7 must leave")), keep())
    driver.leave(*own)
    told = [a for a in driver.feed(Terminated()) if isinstance(a, Tell)]
    assert told == [Tell(n, Leave(reason="the pod is being terminated")) for n in own]


def test_a_released_survivor_is_one_that_has_finished(driver: Any, make_begin: MakeBegin) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    driver.feed(Received(make_begin(2)))
    for launch in own:
        driver.say(launch, Finished(generation=SECOND, step=9))
    done = Conclusion(exit_class=ExitClass.SUCCEEDED, message="done")
    actions = driver.feed(Received(Conclude(incarnation=1, conclusion=done)))
    assert actions == [Tell(launch, Release()) for launch in own]


def test_a_command_is_never_told_to_abort(make_driver: Any, make_begin: MakeBegin) -> None:
    driver = make_driver(is_command=True)
    own = driver.run()
    assert driver.feed(Received(make_begin(2))) == [Kill(launch) for launch in own]


def test_a_place_that_cannot_be_given_leaves_its_survivor_for_the_next_one(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    other = driver.state.store.model_copy(update={"port": 1})
    exits = driver.sent(Received(make_begin(2, store=other)))
    assert [(e.rank, e.exit.exit_class) for e in exits] == [
        (0, ExitClass.INFRASTRUCTURE),
        (1, ExitClass.INFRASTRUCTURE),
    ]
    assert unlogged(driver.feed(keep(SECOND))) == stopped(driver, SECOND)
    actions = driver.feed(Received(make_begin(3)))
    assert [a.launch for a in actions if isinstance(a, GivePlace)] == own


def test_a_survivor_that_wants_no_other_place_is_replaced(
    driver: Any, make_begin: MakeBegin
) -> None:
    """It was told to leave at a step boundary before its generation ended by a fault."""
    own = driver.run()
    driver.feed(Received(Drain(generation=FIRST, reason="worker 7 must leave")), keep())
    driver.leave(*own)
    assert Kill(own[0]) in driver.say(own[0], Finished(generation=FIRST, step=9, left=True))
    driver.feed(Received(make_begin(2)))
    actions = driver.feed(Ended(own[0], signal=9))
    assert [a.launch for a in actions if isinstance(a, GivePlace)] == [driver.launches[-1], own[1]]


def test_beats_of_a_waiting_survivor_are_not_passed_on(driver: Any) -> None:
    own = driver.run()
    driver.feed(keep())
    driver.leave(*own)
    assert driver.sent(Said(own[0], Beat(phase=Phase.STEP, step=9))) == []
    assert driver.sent(Said(own[0], Left(generation=FIRST, step=9))) == []
