"""A spare's agent: parks a process for each place, and fills the places of a worker when told."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reknit.agent.events import (
    Connected,
    Ended,
    Exit,
    GivePlace,
    Kill,
    Launch,
    Ready,
    Received,
    Send,
    Started,
    Terminated,
)
from reknit.protocol.agents import Begin, End, Heartbeat, Register
from reknit.protocol.base import Generation
from reknit.protocol.ranks import Parked, Phase, StepDone

MakeBegin = Callable[..., Begin]


def make_spare(make_driver: Any, **options: Any) -> Any:
    driver = make_driver(**options)
    identity = replace(driver.state.identity, role="spare")
    driver.state = replace(driver.state, identity=identity)
    return driver


def warm(driver: Any) -> list[int]:
    """Connected and ready, with warm processes."""
    driver.feed(Connected(), Ready())
    launches = list(driver.launches)
    for launch in launches:
        driver.feed(Started(launch, 1000 + launch))
        driver.say(launch, Parked())
    return launches


def begin_as(make_begin: MakeBegin, replica: int, counter: int = 1) -> Begin:
    message = make_begin(counter)
    places = tuple(
        place.model_copy(update={"replica": replica}) if place.agent == "a" else place
        for place in message.places
    )
    return message.model_copy(update={"places": places})


def beats(actions: list[Any]) -> list[Heartbeat]:
    told = [action.message for action in actions if isinstance(action, Send)]
    return [message for message in told if isinstance(message, Heartbeat)]


def test_a_spare_parks_a_process_for_each_place_before_any_generation(make_driver: Any) -> None:
    driver = make_spare(make_driver)
    assert driver.feed(Connected())[-1].message.num_warm == 0
    assert [type(action) for action in driver.feed(Ready())] == [Launch, Launch]
    assert driver.feed(Ready()) == []


def test_it_tells_how_many_are_warm(make_driver: Any) -> None:
    driver = make_spare(make_driver)
    launches = warm(driver)
    assert beats(driver.tick(0.2, *launches))[0].num_warm == 2
    driver.feed(Ended(launches[0], signal=9))
    assert beats(driver.tick(0.2, launches[1]))[0].num_warm == 1
    assert len(driver.launches) == 3, "another one is parked"


def test_a_workers_agent_parks_none_before_it_has_a_generation(driver: Any) -> None:
    assert driver.feed(Connected(), Ready())[1:] == []


def test_the_parked_processes_take_the_places(make_driver: Any, make_begin: MakeBegin) -> None:
    driver = make_spare(make_driver)
    launches = warm(driver)
    actions = driver.feed(Received(begin_as(make_begin, 3)))
    given = [action for action in actions if isinstance(action, GivePlace)]
    assert [(place.launch, place.assign.rank) for place in given] == [(launches[0], 0), (1, 1)]
    assert not any(isinstance(action, Launch) for action in actions)


def test_it_tells_the_next_coordinator_whose_place_it_has(
    make_driver: Any, make_begin: MakeBegin
) -> None:
    driver = make_spare(make_driver)
    warm(driver)
    driver.feed(Received(begin_as(make_begin, 3)))
    [register] = [m for m in driver.sent(Connected()) if isinstance(m, Register)]
    assert (register.role, register.replica, register.place) == ("spare", 0, 3)
    assert beats(driver.tick(0.2))[0].place == 3


def test_a_workers_place_is_its_own_whatever_it_is_told(driver: Any, make_begin: MakeBegin) -> None:
    driver.run()
    driver.feed(Received(begin_as(make_begin, 3, counter=2)))
    [register] = [m for m in driver.sent(Connected()) if isinstance(m, Register)]
    assert register.place is None


def test_once_it_has_stepped_it_parks_one_as_every_worker(
    make_driver: Any, make_begin: MakeBegin
) -> None:
    driver = make_spare(make_driver)
    launches = warm(driver)
    driver.feed(Received(begin_as(make_begin, 3)))
    first = Generation(incarnation=1, counter=1)
    assert not any(isinstance(a, Launch) for a in driver.tick(0.4, *launches))
    actions = driver.say(launches[0], StepDone(generation=first, step=8))
    assert len([action for action in actions if isinstance(action, Launch)]) == 1


def test_one_whose_processes_were_ended_parks_anew(make_driver: Any, make_begin: MakeBegin) -> None:
    driver = make_spare(make_driver)
    warm(driver)
    driver.feed(Received(begin_as(make_begin, 3)))
    ended = End(generation=Generation(incarnation=1, counter=1), reason="other workers go on")
    killed = [a.launch for a in driver.feed(Received(ended)) if isinstance(a, Kill)]
    assert killed == [0, 1]
    actions = driver.kill_all()
    assert len([action for action in actions if isinstance(action, Launch)]) == 2
    assert all(slot.phase is not Phase.STEP for slot in driver.state.slots)


def test_a_spare_for_a_command_parks_nothing(make_driver: Any) -> None:
    driver = make_spare(make_driver, is_command=True)
    assert driver.feed(Connected(), Ready())[1:] == []


def test_a_spare_that_must_go_ends_its_processes_and_exits(make_driver: Any) -> None:
    driver = make_spare(make_driver)
    launches = warm(driver)
    actions = driver.feed(Terminated())
    assert [a.launch for a in actions if isinstance(a, Kill)] == launches
    actions = driver.feed(*(Ended(launch, signal=9) for launch in launches))
    assert isinstance(actions[-1], Exit)
    assert driver.launches == launches
