from collections.abc import Callable
from typing import Any

import pytest

from reknit.agent.ending import FAILED_EXIT_SECONDS, RELEASE_SECONDS
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
    Tell,
    Terminate,
    Terminated,
    Tick,
)
from reknit.agent.state import START_ALLOWANCE_SECONDS
from reknit.protocol.agents import (
    Begin,
    Conclude,
    Drain,
    End,
    Exited,
    FromSlot,
    Heartbeat,
    Leaving,
    Refuse,
    Stopped,
)
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import Beat, Failed, Finished, Leave, Phase, Release

FIRST = Generation(incarnation=1, counter=1)
DONE = Conclusion(exit_class=ExitClass.SUCCEEDED, message="done")
BROKEN = Conclusion(exit_class=ExitClass.PROGRAM_ERROR, message="ValueError: x")


def only_exit(actions: list[Any]) -> Exit:
    [exit_] = [action for action in actions if isinstance(action, Exit)]
    return exit_


def finish_all(driver: Any, own: list[int], *, left: bool = False) -> None:
    for launch in own:
        driver.say(launch, Finished(generation=FIRST, step=9, left=left))


def conclude(conclusion: Conclusion, incarnation: int = 1) -> Received:
    return Received(Conclude(incarnation=incarnation, conclusion=conclusion))


def test_finished_ranks_are_released_and_the_agent_exits_after_them(driver: Any) -> None:
    own = driver.run()
    finish_all(driver, own)
    assert driver.feed(conclude(DONE)) == [Tell(launch, Release()) for launch in own]
    assert driver.feed(Ended(own[0], exit_code=0)) == []
    assert driver.feed(Ended(own[1], exit_code=0)) == [Exit(DONE, 0)]


def test_a_released_rank_that_stays_is_killed(driver: Any) -> None:
    own = driver.run()
    finish_all(driver, own)
    driver.feed(conclude(DONE))
    driver.now += RELEASE_SECONDS
    assert [a for a in driver.feed(Tick()) if isinstance(a, Kill)] == [Kill(n) for n in own]
    assert only_exit(driver.kill_all()).code == 0


def test_a_failed_job_ends_ranks_at_once(driver: Any) -> None:
    own = driver.run()
    assert driver.feed(conclude(BROKEN)) == [Kill(launch) for launch in own]
    assert only_exit(driver.kill_all()) == Exit(BROKEN, 1)


@pytest.mark.parametrize(
    ("exit_class", "code"),
    [
        (ExitClass.CONFIGURATION, 2),
        (ExitClass.OUT_OF_MEMORY, 137),
        (ExitClass.PREEMPTED, 143),
        (ExitClass.INFRASTRUCTURE, 70),
    ],
)
def test_the_exit_status_tells_the_class(driver: Any, exit_class: ExitClass, code: int) -> None:
    conclusion = Conclusion(exit_class=exit_class, message="...")
    assert only_exit(driver.feed(Connected(), conclude(conclusion))) == Exit(conclusion, code)


def test_a_stale_coordinator_concludes_nothing(driver: Any) -> None:
    driver.run(incarnation=3)
    assert driver.feed(conclude(BROKEN, incarnation=2)) == []
    assert len(driver.state.live) == 2


def test_a_final_refusal_ends_the_agent_and_another_one_does_not(driver: Any) -> None:
    own = driver.run()
    passing = driver.feed(Received(Refuse(reason="not now", final=False)))
    assert not any(isinstance(a, Kill | Exit) for a in passing)
    actions = driver.feed(Received(Refuse(reason="the place is taken", final=True)))
    assert [a for a in actions if isinstance(a, Kill)] == [Kill(launch) for launch in own]
    exit_ = only_exit(driver.kill_all())
    assert exit_.code == 70
    assert "the place is taken" in exit_.conclusion.message


def test_sigterm_lets_ranks_leave_at_a_step_boundary(driver: Any) -> None:
    own = driver.run()
    assert driver.feed(Terminated()) == [Send(Leaving(grace_seconds=30.0))]
    assert driver.feed(Terminated()) == []
    drain = Drain(generation=FIRST, reason="a must leave", leaving=("a",))
    leave = Leave(reason="a must leave")
    assert driver.feed(Received(drain)) == [Tell(launch, leave) for launch in own]
    finish_all(driver, own, left=True)
    # Others may still need this rank's sockets: the coordinator says when all have left.
    assert not any(isinstance(a, Kill | Exit) for a in driver.feed(Tick()))
    driver.feed(Received(End(generation=FIRST, reason="drained")))
    actions = driver.kill_all()
    assert [type(a.message) for a in actions if isinstance(a, Send)] == [Stopped]
    assert only_exit(actions).code == 143


def test_sigterm_without_processes_exits_at_once(driver: Any) -> None:
    actions = driver.feed(Connected(), Terminated())
    assert only_exit(actions).conclusion.exit_class is ExitClass.PREEMPTED
    assert Send(Leaving(grace_seconds=30.0)) in actions


def test_sigterm_without_a_coordinator_waits_for_the_ranks_alone(driver: Any) -> None:
    own = driver.run()
    driver.feed(Disconnected(), Terminated())
    driver.say(own[0], Finished(generation=FIRST, step=9, left=True))
    actions = driver.say(own[1], Finished(generation=FIRST, step=9, left=True))
    assert [a for a in actions if isinstance(a, Kill)] == [Kill(launch) for launch in own]
    assert only_exit(driver.kill_all()).code == 143


def test_a_later_coordinator_hears_of_the_leaving(driver: Any) -> None:
    driver.run()
    driver.feed(Disconnected(), Terminated())
    driver.now += 5.0
    assert Leaving(grace_seconds=23.0) in driver.sent(Connected()), "the margin is left out"


def test_the_agent_is_gone_before_the_grace_period_is_over(driver: Any) -> None:
    own = driver.run()
    driver.feed(Terminated())
    driver.now += 27.9
    assert not any(isinstance(a, Exit) for a in driver.feed(Tick()))
    driver.now += 0.2
    actions = driver.feed(Tick())
    assert [a for a in actions if isinstance(a, Kill)] == [Kill(launch) for launch in own]
    assert only_exit(actions).code == 143


def test_a_leaving_agent_takes_no_new_place(driver: Any, make_begin: Callable[..., Begin]) -> None:
    own = driver.run()
    driver.feed(Terminated(), Received(make_begin(2)))
    driver.leave(*own)
    finish_all(driver, own, left=True)
    assert [place.assign.generation for place in driver.places] == [FIRST, FIRST]
    assert only_exit(driver.kill_all()).code == 143


def test_a_job_concluded_while_leaving_says_how_it_ended(driver: Any) -> None:
    own = driver.run()
    driver.feed(Terminated())
    finish_all(driver, own)
    driver.feed(conclude(DONE))
    driver.feed(Ended(own[0], exit_code=0))
    assert driver.feed(Ended(own[1], exit_code=0)) == [Exit(DONE, 0)]


def test_a_failed_rank_that_does_not_exit_is_killed_and_its_error_reported(driver: Any) -> None:
    own = driver.run()
    error = ErrorReport(exception="ValueError: x", traceback="...")
    driver.say(own[0], Failed(generation=FIRST, error=error))
    driver.now += FAILED_EXIT_SECONDS - 0.1
    assert not any(isinstance(a, Kill) for a in driver.feed(Tick()))
    driver.now += 0.1
    assert Kill(own[0]) in driver.feed(Tick())
    [exited] = driver.sent(Ended(own[0], signal=9))
    assert exited.exit.error == error


def test_silence_is_measured_from_the_last_word(driver: Any) -> None:
    own = driver.run()
    driver.say(own[0], Beat(phase=Phase.STEP, step=3))
    driver.feed(Tick())
    for _ in range(10):
        driver.now += 0.2
        [beat] = driver.sent(Tick())
    assert isinstance(beat, Heartbeat)
    first, second = beat.slots
    assert first.silent_seconds == pytest.approx(2.0)
    assert (first.phase, first.step) == (Phase.STEP, 3)
    assert second.silent_seconds == 0.0, "it may still import"
    driver.now += 0.1
    driver.say(own[0], Beat(phase=Phase.EVALUATION, step=3))
    driver.now += 0.1
    [beat] = driver.sent(Tick())
    assert beat.slots[0].silent_seconds == pytest.approx(0.1)


def test_a_process_that_never_speaks_falls_silent_in_the_end(driver: Any) -> None:
    driver.run()
    silent = 0.0
    for _ in range(int(START_ALLOWANCE_SECONDS / 0.2) + 10):
        driver.now += 0.2
        [beat] = driver.sent(Tick())
        silent = beat.slots[0].silent_seconds
    assert silent == pytest.approx(2.0, abs=0.3)


def test_ranks_are_not_blamed_for_the_agents_own_pause(driver: Any) -> None:
    own = driver.run()
    driver.feed(Tick())
    for launch in own:
        driver.say(launch, Beat(phase=Phase.STEP, step=3))
    driver.now += 60.0
    [beat] = driver.sent(Tick())
    assert [slot.silent_seconds for slot in beat.slots] == [pytest.approx(0.4)] * 2


def test_no_heartbeats_without_a_connection(driver: Any) -> None:
    driver.run()
    assert driver.feed(Disconnected(), Tick()) == []


def test_a_command_that_ends_with_0_has_finished(make_driver: Any) -> None:
    driver = make_driver(is_command=True)
    own = driver.run()
    assert driver.sent(Ended(own[0], exit_code=0)) == [
        FromSlot(rank=0, message=Finished(generation=FIRST, step=0))
    ]
    assert driver.state.reports(driver.now)[0].finished


def test_a_command_that_saved_its_work_when_told_to_leave_has_left(make_driver: Any) -> None:
    driver = make_driver(is_command=True)
    own = driver.run()
    assert driver.feed(Terminated())[1:] == [Terminate(launch) for launch in own]
    [finished] = driver.sent(Ended(own[0], exit_code=0))
    assert finished.message.left
    [exited] = [m for m in driver.sent(Ended(own[1], signal=15)) if isinstance(m, Exited)]
    assert exited.exit.exit_class is ExitClass.PREEMPTED


def test_a_commands_own_exit_status_is_passed_on(make_driver: Any) -> None:
    driver = make_driver(is_command=True)
    own = driver.run()
    [exited] = driver.sent(Ended(own[1], exit_code=3))
    assert (exited.exit.exit_class, exited.exit.exit_code) == (ExitClass.PROGRAM_ERROR, 3)
    driver.feed(Received(End(generation=FIRST, reason="fault")), Ended(own[0], signal=9))
    assert driver.feed(conclude(BROKEN)) == [Exit(BROKEN, 3)]


def test_a_command_is_never_silent(make_driver: Any) -> None:
    driver = make_driver(is_command=True)
    driver.run()
    driver.now += 1e6
    driver.feed(Tick())
    driver.now += 0.2
    [beat] = driver.sent(Tick())
    assert [slot.silent_seconds for slot in beat.slots] == [0.0, 0.0]


def test_late_words_of_a_process_known_to_be_gone_are_ignored(driver: Any) -> None:
    own = driver.run()
    driver.feed(Ended(own[0], signal=9))
    assert driver.feed(Said(own[0], Beat(phase=Phase.STEP, step=9)), Ended(own[0], signal=9)) == []


def test_readiness_after_the_conclusion_starts_nothing(
    driver: Any, make_begin: Callable[..., Begin]
) -> None:
    actions = driver.feed(Connected(), Received(make_begin()), conclude(DONE), Ready())
    assert only_exit(actions) == Exit(DONE, 0)
    assert not any(isinstance(a, Launch) for a in actions)


def test_a_rank_that_works_is_not_silent_even_if_it_cannot_speak(driver: Any) -> None:
    first, second = driver.run()
    for launch in (first, second):
        driver.say(launch, Beat(phase=Phase.STEP, step=3))
    for _ in range(10):
        driver.now += 0.2
        [beat] = driver.sent(Tick(frozenset({first})))
    assert beat.slots[0].silent_seconds == 0.0
    assert beat.slots[1].silent_seconds == pytest.approx(2.0)


def test_the_last_words_of_a_pod_say_what_its_ranks_could_not_save(driver: Any) -> None:
    own = driver.run()
    driver.feed(Terminated())
    lost = "the last checkpoint (step 9) could not be written"
    for launch in own:
        driver.say(launch, Finished(generation=FIRST, step=9, left=True, unsaved=lost))
    assert {slot.unsaved for slot in driver.state.reports(driver.now)} == {lost}
    driver.feed(Received(End(generation=FIRST, reason="all have left")))
    exit_ = only_exit(driver.feed(*(Ended(launch, signal=9) for launch in own)))
    assert exit_.code == 143
    assert exit_.conclusion == Conclusion(
        exit_class=ExitClass.PREEMPTED, message=f"the pod was terminated: {lost}", unsaved=lost
    )


def test_a_pod_whose_time_is_up_says_that_its_ranks_had_not_left(driver: Any) -> None:
    driver.run()
    driver.feed(Terminated())
    driver.now += 30.0
    exit_ = only_exit(driver.feed(Tick()))
    assert exit_.conclusion.message == "the pod was terminated before its ranks had left"
