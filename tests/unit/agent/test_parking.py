"""The parked process of an agent."""

from collections.abc import Callable
from typing import Any

import pytest

from reknit.agent.events import (
    Connected,
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
    Terminated,
)
from reknit.agent.parking import MAX_FAILURES
from reknit.protocol.agents import Begin, Conclude, Drain, End
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion, ExitClass
from reknit.protocol.ranks import Finished, Parked, StepDone

MakeBegin = Callable[..., Begin]
FIRST = Generation(incarnation=1, counter=1)
DONE = Conclusion(exit_class=ExitClass.SUCCEEDED, message="done")


def step(driver: Any, launch: int, counter: int = 1) -> list[int]:
    """The launches that a step of one rank brings about."""
    generation = Generation(incarnation=1, counter=counter)
    actions = driver.say(launch, StepDone(generation=generation, step=1))
    return [action.launch for action in actions if isinstance(action, Launch)]


def park(driver: Any, launch: int) -> int:
    [parked] = step(driver, launch)
    driver.feed(Started(parked, 1000 + parked))
    driver.say(parked, Parked())
    return int(parked)


def recover(driver: Any, dead: int, survivor: int, begun: Begin) -> list[Any]:
    """A rank has died: what the beginning of the next generation brings about."""
    driver.feed(Ended(dead, signal=9))
    driver.feed(Received(End(generation=FIRST, reason="fault", keep=True)))
    driver.leave(survivor)
    actions: list[Any] = driver.feed(Received(begun))
    return actions


def test_one_process_is_parked_once_a_step_was_made(driver: Any) -> None:
    own = driver.run()
    assert len(step(driver, own[0])) == 1
    assert step(driver, own[1]) == []
    assert step(driver, own[0]) == []
    assert driver.sent(Said(driver.launches[-1], Parked())) == []


def test_the_parked_process_takes_the_place_of_the_dead_one(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    parked = park(driver, own[0])
    actions = recover(driver, own[1], own[0], make_begin(2))
    assert [(a.launch, a.assign.rank) for a in actions if isinstance(a, GivePlace)] == [
        (own[0], 0),
        (parked, 1),
    ]
    assert not any(isinstance(action, Launch) for action in actions)
    assert driver.state.reports(driver.now)[1].pid == 1000 + parked
    # Nothing is left to import, so silence counts from now on.
    driver.tick(2.0, own[0])
    assert driver.state.reports(driver.now)[1].silent_seconds == pytest.approx(2.0)


def test_the_next_one_is_parked_after_a_step_of_the_new_generation(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    parked = park(driver, own[0])
    recover(driver, own[1], own[0], make_begin(2))
    driver.tick(1.0, own[0], parked)
    assert len(driver.launches) == 3, "the redo has the machine for itself"
    assert len(step(driver, parked, counter=2)) == 1


def test_one_that_still_imports_takes_a_place_too(driver: Any, make_begin: MakeBegin) -> None:
    own = driver.run()
    [parked] = step(driver, own[0])
    actions = recover(driver, own[1], own[0], make_begin(2))
    assert [a.launch for a in actions if isinstance(a, GivePlace)] == [own[0], parked]
    assert driver.say(parked, Parked()) == [], "said before its place came"


def test_two_places_get_the_parked_process_and_a_new_one(
    driver: Any, make_begin: MakeBegin
) -> None:
    own = driver.run()
    parked = park(driver, own[0])
    driver.feed(Ended(own[0], signal=9))
    actions = recover(driver, own[1], own[0], make_begin(2))
    assert [a.launch for a in actions if isinstance(a, GivePlace)] == [parked, driver.launches[-1]]


def test_the_end_of_a_parked_process_is_no_fault_and_it_is_replaced(driver: Any) -> None:
    own = driver.run()
    parked = park(driver, own[0])
    actions = driver.feed(Ended(parked, signal=9))
    assert not any(isinstance(action, Send) for action in actions)
    assert [action.launch for action in actions if isinstance(action, Launch)] == [parked + 1]


def test_a_process_that_cannot_be_parked_is_not_tried_for_ever(driver: Any) -> None:
    own = driver.run()
    step(driver, own[0])
    for _ in range(MAX_FAILURES - 1):
        driver.feed(Ended(driver.launches[-1], exit_code=1))
    assert len(driver.launches) == 2 + MAX_FAILURES
    driver.say(driver.launches[-1], Parked())
    for _ in range(5):
        driver.feed(Ended(driver.launches[-1], exit_code=1))
    assert len(driver.launches) == 2 + 2 * MAX_FAILURES, "the one that was warm is forgiven"
    assert step(driver, own[0]) == []


def test_a_parked_process_that_was_stopped_is_replaced(driver: Any, make_begin: MakeBegin) -> None:
    own = driver.run()
    parked = park(driver, own[0])
    assert Kill(parked) in driver.tick(2.4, *own)
    actions = recover(driver, own[1], own[0], make_begin(2))
    assert [a.launch for a in actions if isinstance(a, GivePlace)] == [own[0], driver.launches[-1]]
    assert driver.launches[-1] != parked


def test_a_parked_process_that_beats_or_still_imports_stays(driver: Any) -> None:
    own = driver.run()
    [parked] = step(driver, own[0])
    assert Kill(parked) not in driver.tick(10.0, *own)
    driver.say(parked, Parked())
    assert Kill(parked) not in driver.tick(10.0, *own, parked)


def test_nothing_is_parked_for_ranks_that_are_leaving(driver: Any) -> None:
    own = driver.run()
    driver.feed(Received(Drain(generation=FIRST, reason="node drained")))
    assert step(driver, own[0]) == []


def test_a_command_has_no_parked_process(make_driver: Any) -> None:
    driver = make_driver(is_command=True)
    own = driver.run()
    driver.feed(Ended(own[0], exit_code=0))
    assert driver.launches == own


def test_the_parked_process_ends_with_the_job(driver: Any) -> None:
    own = driver.run()
    parked = park(driver, own[0])
    for launch in own:
        driver.say(launch, Finished(generation=FIRST, step=9))
    conclude = Received(Conclude(incarnation=1, conclusion=DONE))
    assert [a for a in driver.feed(conclude) if isinstance(a, Kill)] == [Kill(parked)]
    driver.feed(*(Ended(launch, exit_code=0) for launch in own))
    assert driver.feed(Ended(parked, signal=9)) == [Exit(DONE, 0)]


def test_the_parked_process_ends_with_its_pod(driver: Any) -> None:
    own = driver.run()
    parked = park(driver, own[0])
    assert Kill(parked) in driver.feed(Terminated())
    driver.feed(Ended(parked, signal=9))
    assert len(driver.launches) == 3


def test_an_agent_without_ranks_parks_nothing(driver: Any, make_begin: MakeBegin) -> None:
    begun = make_begin().model_copy(update={"places": ()})
    driver.feed(Connected(), Ready(), Received(begun))
    driver.tick(1.0)
    assert driver.launches == []
