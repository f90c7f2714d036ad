"""The throughput of programs that take turns: only their own time counts."""

import pytest

TURNS = [(100.0, 103.0), (110.0, 113.0), (120.0, 121.5)]


@pytest.fixture
def turns():
    import turns

    return turns


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [(97.0, -3.0), (100.0, 0.0), (102.0, 2.0), (107.0, 3.0), (111.0, 4.0), (130.0, 7.5)],
)
def test_time_between_turns_does_not_count(turns, moment, seconds):
    assert turns.own_time(TURNS, moment) == seconds


def test_a_step_that_a_turn_cuts_counts_in_part(turns):
    """Two warm-up steps, then one per second of its own: 6 in the two whole turns."""
    done = [98.0, 99.5, 100.5, 101.5, 102.5, 110.5, 111.5, 112.5, 120.5, 121.5]
    progress = turns.Progress(TURNS, done)
    assert progress.steps_within(1) == pytest.approx(3.0, abs=0.2)
    assert progress.steps_within(2) == pytest.approx(6.0, abs=0.2)


def test_only_turns_that_both_made_whole_are_compared(turns):
    """The faster one makes two steps per second, and ends within its second turn."""
    fast = turns.Progress(
        [(0.0, 4.0), (8.0, 11.0)], [-0.25 + n / 2 if n < 9 else 3.75 + n / 2 for n in range(14)]
    )
    slow = turns.Progress(
        [(4.0, 8.0), (11.0, 15.0), (15.0, 20.0)],
        [3.5 + n if n < 5 else 6.5 + n for n in range(14)],
    )
    assert turns.steps_per_second(fast, slow) == pytest.approx([2.0, 1.0])


def test_a_program_without_a_step_after_the_turn_has_no_figure(turns):
    with pytest.raises(ValueError, match="no step was complete"):
        turns.Progress([(0.0, 3.0)], [-1.0, 1.0]).steps_within(1)
