"""Ranks that leave together at a step boundary and keep their state."""

from collections.abc import Callable
from typing import Any

import pytest

from reknit.agent.ending import LEAVE_WAIT_SECONDS
from reknit.agent.events import (
    Connected,
    Disconnected,
    Ended,
    Exit,
    GivePlace,
    Kill,
    Received,
    Send,
    Tell,
    Terminated,
)
from reknit.protocol.agents import Begin, Drain, End, Leaving, Stopped
from reknit.protocol.base import Generation
from reknit.protocol.ranks import Finished, Leave

FIRST = Generation(incarnation=1, counter=1)
SECOND = Generation(incarnation=1, counter=2)


def drain(*, stay: bool = True, leaving: tuple[str, ...] = ("a",)) -> Received:
    return Received(Drain(generation=FIRST, reason="a must leave", stay=stay, leaving=leaving))


def leave(launch: int, *, stay: bool, reason: str = "a must leave") -> Tell:
    return Tell(launch, Leave(reason=reason, stay=stay))


def told(actions: list[Any]) -> list[Tell]:
    return [action for action in actions if isinstance(action, Tell)]


def moved(driver: Any, actions: list[Any]) -> bool:
    """Whether the coordinator was told that the ranks here have left with their state."""
    stopped = Stopped(generation=FIRST, store=driver.state.store, moved=True)
    return [action for action in actions if isinstance(action, Send)] == [Send(stopped)]


def test_ranks_keep_their_processes_and_take_part_in_the_next_generation(
    driver: Any, make_begin: Callable[..., Begin]
) -> None:
    own = driver.run()
    driver.feed(Connected())
    assert driver.feed(drain(leaving=("b",))) == [leave(launch, stay=True) for launch in own]
    assert not any(isinstance(action, Send) for action in driver.leave(own[0]))
    assert moved(driver, driver.leave(own[1]))
    actions = driver.feed(Received(make_begin(2)))
    assert [(a.launch, a.assign.generation) for a in actions if isinstance(a, GivePlace)] == [
        (launch, SECOND) for launch in own
    ]
    assert told(actions) == []


def test_the_ranks_of_a_pod_that_must_go_are_ended_once_they_have_left(driver: Any) -> None:
    own = driver.run()
    assert told(driver.feed(Terminated())) == []
    assert told(driver.feed(drain())) == [leave(launch, stay=True) for launch in own]
    assert told(driver.leave(own[0])) == [], "nothing is lost with it"
    actions = driver.leave(own[1])
    assert moved(driver, actions)
    assert [a for a in actions if isinstance(a, Kill)] == [Kill(launch) for launch in own]
    [exit_] = [action for action in driver.kill_all() if isinstance(action, Exit)]
    assert exit_.code == 143
    assert exit_.conclusion.message == "the pod was terminated"
    assert exit_.conclusion.unsaved is None


def test_ranks_leave_with_those_of_other_pods_though_their_agent_was_not_told(driver: Any) -> None:
    own = driver.run()
    driver.leave(own[0])
    assert moved(driver, driver.leave(own[1]))


def test_a_later_connection_hears_of_the_move(driver: Any) -> None:
    own = driver.run()
    driver.feed(Disconnected(), drain(leaving=("b",)))
    driver.leave(*own)
    register, stopped = driver.sent(Connected())
    assert register.generation is None
    assert (stopped.generation, stopped.moved) == (FIRST, True)


def test_an_end_is_no_move(driver: Any) -> None:
    own = driver.run()
    driver.feed(drain(leaving=("b",)))
    driver.feed(Received(End(generation=FIRST, reason="a fault", keep=True)))
    actions = driver.leave(*own)
    [stopped] = [action.message for action in actions if isinstance(action, Send)]
    assert not stopped.moved


def test_a_pod_says_what_is_lost_when_the_state_might_not_survive_without_it(driver: Any) -> None:
    """The drain was for a larger world; the coordinator did not know that the pod must go."""
    own = driver.run()
    driver.feed(drain(leaving=()), Terminated(), drain(leaving=()))
    driver.leave(*own)
    assert told(driver.tick(LEAVE_WAIT_SECONDS - 0.4, *own)) == []
    reason = "the pod is being terminated"
    expected = [leave(launch, stay=False, reason=reason) for launch in own]
    assert told(driver.tick(0.6, *own)) == expected


def test_ranks_that_have_left_with_others_before_the_word_came_are_ended_then(driver: Any) -> None:
    own = driver.run()
    driver.feed(Terminated())
    assert told(driver.leave(own[0])) == []
    assert moved(driver, driver.leave(own[1]))
    assert driver.feed(drain()) == [Kill(launch) for launch in own]


def test_one_that_has_left_already_is_not_told_again(driver: Any) -> None:
    own = driver.run()
    driver.leave(own[0])
    assert told(driver.feed(drain(leaving=("b",)))) == [leave(own[1], stay=True)]
    assert told(driver.feed(drain(stay=False, leaving=("b",)))) == [leave(own[1], stay=False)]


def test_a_fault_meanwhile_makes_every_survivor_count(driver: Any) -> None:
    own = driver.run()
    driver.feed(Terminated(), drain())
    driver.feed(Received(End(generation=FIRST, reason="a fault", keep=True)))
    assert [tell.message.stay for tell in told(driver.leave(*own))] == [False, False]


def test_a_move_becomes_a_checkpoint_when_more_pods_must_go_and_never_the_reverse(
    driver: Any,
) -> None:
    own = driver.run()
    driver.feed(drain(leaving=("b",)))
    assert driver.feed(drain(leaving=("b",))) == []
    assert driver.feed(drain(stay=False)) == [leave(launch, stay=False) for launch in own]
    assert driver.feed(drain(stay=False), drain()) == []


def test_a_pod_that_nobody_answers_leaves_with_a_checkpoint(driver: Any) -> None:
    own = driver.run()
    driver.feed(Terminated())
    assert told(driver.tick(LEAVE_WAIT_SECONDS - 0.4, *own)) == []
    expected = [leave(n, stay=False, reason="the pod is being terminated") for n in own]
    assert told(driver.tick(0.6, *own)) == expected
    assert told(driver.tick(10.0, *own)) == []


def test_a_pod_that_nobody_answers_gives_up_the_move_it_was_told_of(driver: Any) -> None:
    own = driver.run()
    driver.feed(drain(leaving=()), Terminated())
    actions = driver.tick(LEAVE_WAIT_SECONDS + 0.2, *own)
    assert [tell.message.stay for tell in told(actions)] == [False, False]


@pytest.mark.parametrize("where", ["no coordinator", "no place"])
def test_ranks_leave_at_once_where_nobody_can_say_how(driver: Any, where: str) -> None:
    own = driver.run()
    if where == "no coordinator":
        driver.feed(Disconnected())
    else:
        driver.feed(Received(End(generation=FIRST, reason="a fault", keep=True)))
        driver.leave(*own)
    assert [tell.launch for tell in told(driver.feed(Terminated()))] == own


def test_a_command_is_terminated_at_once(make_driver: Callable[..., Any]) -> None:
    driver = make_driver(is_command=True)
    driver.run()
    leaving, *rest = driver.feed(Terminated())
    assert leaving == Send(Leaving(grace_seconds=30.0))
    assert len(rest) == 2


def test_a_process_that_dies_after_it_has_left_holds_nobody_up(driver: Any) -> None:
    own = driver.run()
    driver.feed(drain(leaving=("b",)))
    driver.leave(own[0])
    driver.feed(Ended(own[0], signal=9))
    assert moved(driver, driver.leave(own[1]))


def test_a_rank_that_dies_before_it_has_left_is_a_fault_and_no_move(driver: Any) -> None:
    own = driver.run()
    driver.feed(drain(leaving=("b",)))
    driver.leave(own[0])
    [exited] = driver.sent(Ended(own[1], signal=9))
    assert (exited.rank, exited.generation) == (1, FIRST)


def test_ranks_that_write_a_checkpoint_have_not_moved(driver: Any) -> None:
    own = driver.run()
    driver.feed(drain(stay=False))
    for launch in own:
        driver.say(launch, Finished(generation=FIRST, step=9, left=True))
    assert driver.state.generation == FIRST


def test_those_that_come_to_their_place_later_hear_of_the_move(
    driver: Any, make_begin: Callable[..., Begin]
) -> None:
    own = driver.run()
    second = Received(Drain(generation=SECOND, reason="b must leave", stay=True, leaving=("b",)))
    driver.feed(Received(make_begin(2)), second)
    driver.leave(own[0])
    expected = [leave(launch, stay=True, reason="b must leave") for launch in own]
    assert told(driver.leave(own[1])) == expected


def test_a_fault_while_the_word_is_waited_for_leaves_no_process_without_one(driver: Any) -> None:
    own = driver.run()
    driver.feed(drain(leaving=()), Terminated())
    driver.leave(*own)
    driver.feed(Received(End(generation=FIRST, reason="a fault", keep=True)))
    actions = driver.tick(LEAVE_WAIT_SECONDS + 0.2, *own)
    assert [(tell.launch, tell.message.stay) for tell in told(actions)] == [
        (launch, False) for launch in own
    ]
    for launch in own:
        driver.say(launch, Finished(generation=FIRST, step=4, left=True, unsaved="step 4"))
    [exit_] = [action for action in driver.kill_all() if isinstance(action, Exit)]
    assert exit_.conclusion.unsaved == "step 4"


def test_a_pod_that_has_given_out_no_places_moves_none(
    driver: Any, make_begin: Callable[..., Begin]
) -> None:
    own = driver.run()
    driver.feed(Received(make_begin(2)))
    driver.leave(own[0])
    assert [tell.launch for tell in told(driver.feed(Terminated()))] == [own[0]]
    second = Drain(generation=SECOND, reason="a must leave", stay=True, leaving=("a",))
    driver.feed(Received(second))
    assert [tell.message.stay for tell in told(driver.leave(own[1]))] == [False]


def test_more_pods_that_must_go_take_back_that_this_one_is_not_needed(driver: Any) -> None:
    own = driver.run()
    driver.feed(Terminated(), drain(), drain(stay=False, leaving=("a", "b")))
    actions = driver.leave(*own)
    assert [tell.message.stay for tell in told(actions)] == [False, False], "what is lost is said"
    assert not any(isinstance(action, Kill) for action in actions)
