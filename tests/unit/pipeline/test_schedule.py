"""Who computes what when, and how long the ranks wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.layout import PipelineSchedule
from reknit.pipeline.schedule import Action, Kind, actions, bubble, in_flight, obstacle
from timeline import dependency, timeline, waiting_share

GPIPE, ONE_F_ONE_B, INTERLEAVED = PipelineSchedule


@st.composite
def pipelines(draw):
    """(schedule, ranks, stages per rank, micro-batches) that go together."""
    schedule = draw(st.sampled_from(PipelineSchedule))
    num_ranks = draw(st.integers(2, 6))
    if schedule is INTERLEAVED:
        return schedule, num_ranks, draw(st.integers(1, 4)), num_ranks * draw(st.integers(1, 4))
    return schedule, num_ranks, 1, draw(st.integers(1, 20))


def lists(schedule, num_ranks, per_rank, num_micro):
    return [actions(schedule, rank, num_ranks, per_rank, num_micro) for rank in range(num_ranks)]


def duration(action: Action) -> float:
    return 1.0 if action.kind is Kind.FORWARD else 2.0


def written(found) -> str:
    return " ".join(f"{action.kind.name[0]}{action.micro_batch}" for action in found)


@pytest.mark.parametrize(
    ("schedule", "rank", "expected"),
    [
        (GPIPE, 0, "F0 F1 F2 F3 B0 B1 B2 B3"),
        (GPIPE, 1, "F0 F1 F2 F3 B0 B1 B2 B3"),
        (ONE_F_ONE_B, 0, "F0 F1 B0 F2 B1 F3 B2 B3"),
        (ONE_F_ONE_B, 1, "F0 B0 F1 B1 F2 B2 F3 B3"),
    ],
)
def test_known_schedules(schedule, rank, expected) -> None:
    assert written(actions(schedule, rank, 2, 1, 4)) == expected


def test_the_interleaved_one_is_that_of_the_paper() -> None:
    found = actions(INTERLEAVED, 1, 2, 2, 2)
    assert [(a.kind.name[0], a.stage, a.micro_batch) for a in found] == [
        ("F", 1, 0),
        ("F", 1, 1),
        ("F", 3, 0),
        ("B", 3, 0),
        ("F", 3, 1),
        ("B", 3, 1),
        ("B", 1, 0),
        ("B", 1, 1),
    ]


@given(pipelines())
def test_every_pass_is_made_once_by_the_rank_of_its_stage(pipeline) -> None:
    _, num_ranks, per_rank, num_micro = pipeline
    for rank, found in enumerate(lists(*pipeline)):
        assert all(action.stage % num_ranks == rank for action in found)
        assert sorted((a.kind.name, a.stage, a.micro_batch) for a in found) == sorted(
            (kind.name, rank + index * num_ranks, micro)
            for kind in Kind
            for index in range(per_rank)
            for micro in range(num_micro)
        )


@given(pipelines())
def test_nothing_is_done_before_what_it_needs(pipeline) -> None:
    _, num_ranks, per_rank, _ = pipeline
    spans = timeline(lists(*pipeline), duration)
    times = {span.action: span for rank in spans for span in rank}
    for action, span in times.items():
        needed = dependency(action, num_ranks * per_rank)
        assert needed is None or times[needed].stop <= span.start
        if action.kind is Kind.BACKWARD:
            own = times[Action(Kind.FORWARD, action.stage, action.micro_batch)]
            assert own.stop <= span.start


@given(pipelines())
def test_gradients_are_added_in_the_order_of_the_micro_batches(pipeline) -> None:
    for found in lists(*pipeline):
        for stage in {action.stage for action in found}:
            order = [
                action.micro_batch
                for action in found
                if action.stage == stage and action.kind is Kind.BACKWARD
            ]
            assert order == sorted(order)


@given(pipelines())
def test_the_bubble_is_that_of_the_formula(pipeline) -> None:
    _, num_ranks, _, num_micro = pipeline
    found = waiting_share(timeline(lists(*pipeline), duration))
    if num_micro >= num_ranks:
        assert found == pytest.approx(bubble(*pipeline), abs=1e-9)
    else:
        assert found == pytest.approx(bubble(*pipeline), abs=0.05)


@pytest.mark.parametrize(
    ("schedule", "ranks", "per_rank", "micro", "percent"),
    [
        (GPIPE, 4, 1, 8, 27.3),
        (ONE_F_ONE_B, 4, 1, 8, 27.3),
        (INTERLEAVED, 4, 2, 8, 15.8),
        (ONE_F_ONE_B, 8, 1, 32, 17.9),
        (INTERLEAVED, 8, 2, 16, 17.9),
    ],
)
def test_published_bubbles(schedule, ranks, per_rank, micro, percent) -> None:
    assert 100 * bubble(schedule, ranks, per_rank, micro) == pytest.approx(percent, abs=0.05)


@given(pipelines())
def test_activations_in_flight_are_bounded_by_the_pipeline_not_the_batch(pipeline) -> None:
    schedule, num_ranks, per_rank, num_micro = pipeline
    for rank in range(num_ranks):
        held = in_flight(schedule, rank, num_ranks, per_rank, num_micro)
        if schedule is GPIPE:
            assert held == num_micro
        elif schedule is ONE_F_ONE_B:
            assert held == min(num_micro, num_ranks - rank)
        else:
            assert held <= min(
                per_rank * num_micro, 2 * (num_ranks - rank - 1) + (per_rank - 1) * num_ranks + 1
            )


@pytest.mark.parametrize(
    ("schedule", "per_rank", "micro", "reason"),
    [
        (GPIPE, 2, 4, "has one stage on each rank, not 2"),
        (ONE_F_ONE_B, 3, 4, "has one stage on each rank, not 3"),
        (INTERLEAVED, 2, 6, "needs a multiple of 4 micro-batches for each pipeline, not 6"),
        (INTERLEAVED, 2, 8, None),
        (ONE_F_ONE_B, 1, 3, None),
    ],
)
def test_what_a_schedule_cannot_do(schedule, per_rank, micro, reason) -> None:
    found = obstacle(schedule, 4, per_rank, micro)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.endswith(reason)
        with pytest.raises(ValueError, match=reason):
            actions(schedule, 0, 4, per_rank, micro)


def test_lists_that_wait_for_each_other_are_found_out() -> None:
    one, other = (list(found) for found in lists(ONE_F_ONE_B, 2, 1, 2))
    with pytest.raises(ValueError, match="wait for each other"):
        timeline([one[::-1], other], duration)
