from datetime import timedelta

import pytest

from reknit.protocol.agents import Conclude, End
from reknit.protocol.outcome import ExitClass


def conclusion(sent):
    concluded = [m for m in sent if isinstance(m, Conclude)]
    return concluded[0].conclusion if concluded else None


def test_all_finished_is_success(drive) -> None:
    job = drive()
    job.begin()
    job.step(9)
    assert conclusion(job.finish(0)) is None
    done = conclusion(job.finish(1))
    assert done.exit_class is ExitClass.SUCCEEDED
    assert done.message == "training has finished at step 9"


def test_a_fault_after_some_have_finished_starts_a_new_generation(drive) -> None:
    job = drive()
    job.begin()
    job.finish(0)
    assert {type(m) for m in job.exit(1, signal=9)} == {End}


def test_the_same_exception_on_all_ranks_ends_the_job(drive) -> None:
    job = drive()
    job.begin()
    assert job.fail(0, "ValueError: x") == []
    done = conclusion(job.fail(1, "ValueError: x"))
    assert done.exit_class is ExitClass.PROGRAM_ERROR
    assert done.message == "ValueError: x (the same on every rank)"
    assert done.error.traceback == "ValueError: x"


def test_different_exceptions_are_redone_once(drive) -> None:
    job = drive()
    job.begin()
    job.fail(0, "ValueError: 0")
    assert {type(m) for m in job.fail(1, "ValueError: 1")} == {End}
    job.stop()
    job.fail(0, "ValueError: 0")
    done = conclusion(job.fail(1, "RuntimeError: peer"))
    assert done.message == "ValueError: 0 (on rank 0, again after the step was redone)"


def test_one_rank_is_waited_for_and_then_redone(drive) -> None:
    job = drive()
    job.begin()
    job.fail(1, "ValueError: x")
    assert job.wait(0.9, 0, 1) == []
    assert {type(m) for m in job.wait(0.2, 0, 1)} == {End}


def test_progress_wipes_the_first_strike(drive) -> None:
    job = drive()
    job.begin()
    for step in (1, 2, 3):
        job.step(step)
        job.fail(1, "ValueError: x")
        assert {type(m) for m in job.wait(1.1, 0, 1)} == {End}
        job.stop()


def test_the_death_of_a_rank_explains_the_exceptions_of_others(drive) -> None:
    job = drive()
    job.begin()
    for _ in range(3):
        job.fail(0, "RuntimeError: connection closed by peer")
        assert {type(m) for m in job.exit(1, signal=9)} == {End}
        job.stop()
    assert job.state.failures_by_class == {ExitClass.KILLED: 3}
    assert job.state.strike is None


def test_no_rank_is_convicted_while_another_agent_may_be_dead(drive) -> None:
    job = drive()
    job.begin()
    job.disconnect(0)
    job.fail(1, "RuntimeError: connection closed by peer")
    sent = job.wait(2.2, 1)
    assert {type(m) for m in sent} == {End}
    assert job.state.failures_by_class == {ExitClass.INFRASTRUCTURE: 1}
    assert job.state.strike is None


def test_the_only_rank_is_every_rank(drive) -> None:
    job = drive(num_workers=1)
    job.begin()
    done = conclusion(job.fail(0, "ValueError: x"))
    assert done.message == "ValueError: x (on the only rank)"


def test_a_wrong_configuration_ends_the_job_at_once(drive) -> None:
    job = drive()
    job.begin()
    done = conclusion(job.fail(1, "config.depth: must be 1 or more", ExitClass.CONFIGURATION))
    assert done.exit_class is ExitClass.CONFIGURATION
    assert done.message == "config.depth: must be 1 or more"


def test_recoveries_without_progress_end_the_job(drive) -> None:
    job = drive(max_process_failures=2)
    job.begin()
    for _ in range(2):
        job.exit(1, signal=9)
        job.stop()
    done = conclusion(job.exit(1, ExitClass.OUT_OF_MEMORY, signal=9))
    assert done.exit_class is ExitClass.OUT_OF_MEMORY
    assert done.message == (
        "given up after 2 recoveries without a new step: rank 1 on w1 ran out of memory"
    )


def test_progress_starts_the_count_anew(drive) -> None:
    job = drive(max_process_failures=1)
    job.begin()
    for step in range(1, 5):
        job.step(step)
        job.exit(1, signal=9)
        job.stop()
    assert job.state.conclusion is None


def test_too_many_recoveries_within_the_window_end_the_job(drive) -> None:
    """Although every one of them brings progress."""
    job = drive(process_failures=3, process_failure_window=timedelta(minutes=1))
    job.begin()
    for step in range(1, 4):
        job.step(step)
        job.exit(1, signal=9)
        job.stop()
    job.step(4)
    done = conclusion(job.exit(1, signal=9))
    assert done.exit_class is ExitClass.KILLED
    assert done.message == (
        "given up after 3 recoveries within 0:01:00: rank 1 on w1 was ended by signal 9"
    )


def test_failures_that_the_window_has_left_behind_do_not_count(drive) -> None:
    job = drive(process_failures=3, process_failure_window=timedelta(minutes=1))
    job.begin()
    for step in range(1, 12):
        job.step(step)
        job.exit(1, signal=9)
        job.stop()
        job.wait(20.1, 0, 1)
    assert job.state.conclusion is None
    assert len(job.state.failure_times) <= 4


def test_lost_agents_do_not_count_as_failures_of_processes(drive) -> None:
    job = drive(max_process_failures=0)
    job.begin()
    job.wait(2.2, 0)
    assert job.state.conclusion is None
    assert job.state.failures_by_class == {ExitClass.INFRASTRUCTURE: 1}


def test_a_command_is_restarted_as_a_group_and_never_judged(drive) -> None:
    job = drive(is_command=True, max_process_failures=3)
    job.begin()
    error = {"exception": "exit status 3", "traceback": "exit status 3"}
    for _ in range(3):
        sent = job.exit(1, ExitClass.PROGRAM_ERROR, exit_code=3, error=error)
        assert {(type(m), m.keep) for m in sent} == {(End, False)}
        job.stop()
    done = conclusion(job.exit(1, ExitClass.PROGRAM_ERROR, exit_code=3, error=error))
    assert done.exit_class is ExitClass.PROGRAM_ERROR


def test_a_restarted_command_has_recovered_when_its_processes_are_there(drive) -> None:
    job = drive(is_command=True)
    job.begin()
    job.exit(1, ExitClass.PROGRAM_ERROR, exit_code=3)
    job.stop()
    job.beat(0, job.slot(0, phase="Starting"))
    assert "RecoveryFinished" not in job.reasons()
    job.beat(1, job.slot(1, phase="Starting"))
    assert "RecoveryFinished" in job.reasons()


def test_exit_status_0_before_the_end_is_the_programs_error(drive) -> None:
    job = drive(num_workers=1)
    job.begin()
    done = conclusion(job.exit(0, ExitClass.SUCCEEDED, exit_code=0))
    assert done.exit_class is ExitClass.PROGRAM_ERROR
    assert "before training had finished" in done.message


def test_an_agent_that_comes_back_is_told_the_conclusion(drive) -> None:
    job = drive()
    job.begin()
    old = job.generation
    job.disconnect(1)
    job.fail(0, "config: x", ExitClass.CONFIGURATION)
    done = conclusion(job.register(1, connection=7, generation=old))
    assert done.exit_class is ExitClass.CONFIGURATION
    assert job.wait(5) == [], "nobody is given up any more"


@pytest.mark.parametrize("exit_class", [ExitClass.PREEMPTED, ExitClass.SUCCEEDED])
def test_a_rank_that_has_left_may_exit(drive, exit_class) -> None:
    from reknit.protocol.agents import Leaving

    job = drive()
    job.begin()
    job.hear(2, Leaving(grace_seconds=30))
    job.finish(1, left=True)
    assert job.exit(1, exit_class, exit_code=0) == []
    assert job.state.current.faults == ()
