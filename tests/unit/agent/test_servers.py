"""A parameter server's agent: one process, parked for its whole life, and what is passed on."""

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
    Tell,
    Terminated,
)
from reknit.parameter_server.views import View
from reknit.protocol.agents import Conclude, End, Leaving
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import Failed, Parked
from reknit.protocol.servers import FromServer, Leases, ServerEnded, Serving, Views

VIEWS = Views.of(1, [View(1, 0, "a.1", None, ())], {"a.1": "h:1"})
SERVING = Serving(name="a.1", address="h:1", asked_at=1.0)
LEASES = Leases(name="a.1", asked_at=1.0, seconds=2.0, ranges={0: 1})
NOWHERE = Generation(incarnation=0, counter=0)


def make_server(make_driver: Any) -> Any:
    driver = make_driver(num_slots=1)
    identity = replace(driver.state.identity, role="server")
    driver.state = replace(driver.state, identity=identity)
    return driver


def warm(driver: Any) -> int:
    driver.feed(Connected(), Ready())
    [launch] = driver.launches
    driver.feed(Started(launch, 1000))
    driver.say(launch, Parked())
    return launch


def sent(actions: list[Any], kind: type) -> list[Any]:
    return [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, kind)]


def failed(text: str, exit_class: ExitClass) -> Failed:
    error = ErrorReport(exception=text, traceback=text, exit_class=exit_class)
    return Failed(generation=NOWHERE, error=error)


def test_what_the_server_says_is_passed_on_with_its_launch(make_driver: Any) -> None:
    driver = make_server(make_driver)
    launch = warm(driver)
    actions = driver.say(launch, SERVING)
    assert sent(actions, FromServer) == [FromServer(launch=launch, message=SERVING)]


def test_the_server_hears_views_and_leases(make_driver: Any) -> None:
    driver = make_server(make_driver)
    launch = warm(driver)
    assert driver.feed(Received(VIEWS)) == [Tell(launch, VIEWS)]
    assert driver.feed(Received(LEASES)) == [Tell(launch, LEASES)]
    assert driver.state.register(driver.now).views == VIEWS


def test_views_of_a_coordinator_that_was_replaced_are_not_obeyed(make_driver: Any) -> None:
    driver = make_server(make_driver)
    launch = warm(driver)
    newer = VIEWS.model_copy(update={"incarnation": 2})
    driver.feed(Received(newer))
    assert Tell(launch, VIEWS) not in driver.feed(Received(VIEWS))
    assert driver.state.views == newer


def test_another_server_takes_the_place_of_one_that_has_ended(make_driver: Any) -> None:
    driver = make_server(make_driver)
    first = warm(driver)
    driver.feed(Received(VIEWS))
    actions = driver.feed(Ended(first, signal=9))
    assert sent(actions, ServerEnded) == [ServerEnded(launch=first)]
    [launch] = [action.launch for action in actions if isinstance(action, Launch)]
    assert launch != first
    assert driver.say(launch, Parked())[-1] == Tell(launch, VIEWS)


def test_a_wrong_configuration_ends_the_agent_with_it(make_driver: Any) -> None:
    driver = make_server(make_driver)
    driver.feed(Connected(), Ready())
    [launch] = driver.launches
    driver.say(launch, failed("job.engine: no", ExitClass.CONFIGURATION))
    actions = driver.feed(Ended(launch, exit_code=2))
    [exit_] = [action for action in actions if isinstance(action, Exit)]
    assert exit_.conclusion.exit_class is ExitClass.CONFIGURATION
    assert exit_.conclusion.message == "job.engine: no"


def test_a_server_that_never_gets_ready_is_given_up_after_three_attempts(make_driver: Any) -> None:
    driver = make_server(make_driver)
    driver.feed(Connected(), Ready())
    for number in range(3):
        actions = driver.feed(Ended(driver.launches[number], exit_code=1))
    [exit_] = [action for action in actions if isinstance(action, Exit)]
    assert exit_.conclusion.exit_class is ExitClass.INFRASTRUCTURE


def test_a_server_whose_pod_must_go_serves_until_it_is_told(make_driver: Any) -> None:
    driver = make_server(make_driver)
    launch = warm(driver)
    actions = driver.feed(Terminated())
    assert sent(actions, Leaving)
    assert Kill(launch) not in actions
    end = End(generation=Generation(incarnation=1, counter=1), reason="others hold it")
    assert Kill(launch) in driver.feed(Received(end))
    actions = driver.feed(Ended(launch, signal=9))
    assert sent(actions, ServerEnded)
    assert [a.conclusion.exit_class for a in actions if isinstance(a, Exit)] == [
        ExitClass.PREEMPTED
    ]


def test_the_end_of_a_generation_leaves_a_server_alone(make_driver: Any) -> None:
    driver = make_server(make_driver)
    launch = warm(driver)
    end = End(generation=Generation(incarnation=1, counter=1), reason="a rank died", keep=True)
    assert Kill(launch) not in driver.feed(Received(end))


def test_the_end_of_the_job_ends_the_server(make_driver: Any) -> None:
    driver = make_server(make_driver)
    launch = warm(driver)
    done = Conclusion(exit_class=ExitClass.SUCCEEDED, message="done")
    assert Kill(launch) in driver.feed(Received(Conclude(incarnation=1, conclusion=done)))
    [exit_] = [a for a in driver.feed(Ended(launch, signal=9)) if isinstance(a, Exit)]
    assert exit_.conclusion == done


def test_a_rank_hears_the_views_with_its_place_and_when_they_change(
    make_driver: Any, make_begin: Any
) -> None:
    driver = make_driver()
    driver.feed(Connected(), Ready(), Received(VIEWS))
    actions = driver.feed(Received(make_begin()))
    places = [action.launch for action in actions if isinstance(action, GivePlace)]
    assert [a for a in actions if isinstance(a, Tell)] == [Tell(n, VIEWS) for n in places]
    assert driver.feed(Received(VIEWS)) == [Tell(launch, VIEWS) for launch in places]
