"""The view that displays and reports share."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from reknit.protocol.ranks import Phase
from reknit.protocol.status import (
    CoordinatorStatus,
    EventRecord,
    MembershipPhase,
    RankStatus,
    Record,
    StepRecord,
)
from reknit_operator.cli.display.view import KEPT_EVENTS, RATE_STEPS, View, fold, with_status

EMPTY = View("tiny")


def test_a_run_with_a_fault(records: list[Record]) -> None:
    view = fold(EMPTY, records)
    assert (view.step, view.total_steps, view.committed) == (10, 10, 10)
    assert (view.faults, view.recoveries, view.recovery_seconds, view.redone) == (1, 1, 2.5, 1)
    assert (view.held_out, view.held_out_step) == ({"loss": 0.5}, 10)
    assert view.checkpoint_step == 4
    assert view.elapsed == 14
    assert view.metrics == {"loss": 0.4}
    assert view.memory_bytes == {0: 2**30, 1: 2**29}


def test_records_may_come_in_any_portions(records: list[Record]) -> None:
    view = EMPTY
    for record in records:
        view = fold(view, [record])
    assert view == fold(EMPTY, records)


def test_the_speed_is_that_of_the_present_generation(
    make_step: Callable[..., StepRecord],
) -> None:
    slow = [make_step(number, 10 * number) for number in range(1, 5)]
    fast = [make_step(number, 100 + number, generation=2) for number in range(5, 8)]
    view = fold(EMPTY, [*slow, *fast])
    assert view.steps_per_second == 1
    assert view.samples_per_second == 8
    assert view.remaining_seconds == 3


def test_the_speed_follows_the_latest_steps(make_step: Callable[..., StepRecord]) -> None:
    slow = [make_step(number, 10 * number, total_steps=None) for number in range(1, 100)]
    fast = [
        make_step(100 + number, 1000 + number, total_steps=None) for number in range(RATE_STEPS)
    ]
    view = fold(EMPTY, [*slow, *fast])
    assert view.steps_per_second == 1
    assert view.remaining_seconds is None


def test_there_is_no_speed_before_two_steps(make_step: Callable[..., StepRecord]) -> None:
    view = fold(EMPTY, [make_step(1, 1)])
    assert view.steps_per_second is view.samples_per_second is view.remaining_seconds is None
    same = fold(EMPTY, [make_step(1, 1), make_step(2, 1)])
    assert same.steps_per_second is None


def test_a_first_start_redoes_nothing(make_event: Callable[..., EventRecord]) -> None:
    assert fold(EMPTY, [make_event("Resumed", 1, step=60)]).redone == 0


def test_steps_lost_twice_count_twice(
    make_step: Callable[..., StepRecord], make_event: Callable[..., EventRecord]
) -> None:
    view = fold(
        EMPTY,
        [
            make_step(5, 1),
            make_event("Resumed", 2, step=2),
            make_step(3, 3),
            make_event("Resumed", 4, step=2),
        ],
    )
    assert (view.redone, view.step) == (4, 2)


def test_only_the_latest_events_are_kept(make_event: Callable[..., EventRecord]) -> None:
    events = [make_event("AgentJoined", at) for at in range(3 * KEPT_EVENTS)]
    assert fold(EMPTY, events).events == tuple(events[-KEPT_EVENTS:])


@pytest.mark.parametrize(("reason", "faults"), [("RankExited", 1), ("AgentLost", 1), ("Other", 0)])
def test_what_counts_as_a_fault(
    make_event: Callable[..., EventRecord], reason: str, faults: int
) -> None:
    assert fold(EMPTY, [make_event(reason, 1)]).faults == faults


def test_a_coordinator_tells_of_ranks_and_its_silence_keeps_them() -> None:
    rank = RankStatus(rank=0, agent="pod", node="node", phase=Phase.STEP, step=3)
    status = CoordinatorStatus(incarnation=1, phase=MembershipPhase.RUNNING, ranks=(rank,))
    view = with_status(EMPTY, status)
    assert (view.phase, view.ranks) == ("Running", (rank,))
    assert with_status(view, None) == replace(view, phase=None)


@pytest.mark.parametrize(
    ("reasons", "state"),
    [
        ([], "Starting"),
        (["GenerationBegun"], "Starting"),
        (["GenerationBegun", "Resumed"], "Running"),
        (["Resumed", "RankExited", "GenerationBegun"], "Recovering"),
        (["Resumed", "Draining"], "Closing"),
        (["Resumed", "Concluded"], "Concluded"),
    ],
)
def test_records_tell_where_the_job_stands(
    make_event: Callable[..., EventRecord], reasons: list[str], state: str
) -> None:
    assert fold(EMPTY, [make_event(reason, 1, step=0) for reason in reasons]).state == state
