import pytest

from reknit.protocol.base import Generation
from reknit_operator.cli.chaos.decide import Action
from reknit_operator.cli.chaos.recovery import Overcome, cost, generation_of, rows, stepped_at

START = 1_760_000_000.0
FIRST = Generation(incarnation=1, counter=1)


def at(records, since, calm=None):
    """Seconds from the deed to the step."""
    found = stepped_at(records, START + since, FIRST, None if calm is None else START + calm)
    return None if found is None else found - START - since


def test_the_generation_is_the_newest_that_is_told_of(records, make_event):
    assert generation_of([]) is None
    assert generation_of([make_event("Concluded", 1, generation=1).model_copy()]) == FIRST
    assert generation_of(records) == Generation(incarnation=1, counter=2)
    tenth = make_event("GenerationBegun", 15, generation=10)
    assert generation_of([tenth, *records]).counter == 10


def test_a_redone_step_is_no_new_one(records):
    """Killed at 6.2 after step 5; step 5 is redone at 8, step 6 is made at 9."""
    assert at(records, 6.2) == pytest.approx(2.8)


def test_a_step_that_survivors_complete_in_the_old_generation_does_not_count(records):
    """Killed at 5.5, and yet step 5 is recorded at 6: the fault is still to come."""
    assert at(records[:8], 5.5) is None
    assert at(records, 5.5) == pytest.approx(3.5)


def test_until_a_step_is_made_there_is_no_answer(records):
    assert at(records[:8], 6.2) is None
    assert at(records[:12], 6.2) is None
    assert at(records[:13], 6.2) == pytest.approx(2.8)


def test_a_generation_that_outlives_the_deed_counts_once_the_deed_is_over(records):
    """Stopped at 1.5 and continued at 3.5: the step at 3 may be one that was under way."""
    assert at(records, 1.5, calm=3.5) == pytest.approx(2.5)
    assert at(records, 1.5, calm=1.5) == pytest.approx(0.5)


def test_a_newer_generation_counts_whether_the_deed_is_over_or_not(records):
    assert at(records, 6.2, calm=20) == pytest.approx(2.8)


def test_steps_before_the_deed_do_not_count(records):
    assert at(records, 20) is None
    assert at(records, 20, calm=20) is None


def test_without_a_generation_only_calm_steps_count(make_step):
    steps = [make_step(1, 1), make_step(2, 2)]
    assert stepped_at(steps, START + 0.5, None, None) is None
    assert stepped_at(steps, START + 1.5, None, START + 1.5) == START + 2


def test_the_cost_is_that_of_the_time_since(records):
    """From step 4 at 5 s to step 10 at 13 s: 6 steps of 0.1 s that were kept, one made twice."""
    found = cost(records[:7], records[7:])
    assert found.lost_steps == 1
    assert found.seconds == pytest.approx(8)
    assert found.effective_ratio == pytest.approx(6 * 0.1 / 8)


def test_what_was_lost_before_is_not_counted(records):
    found = cost(records[:12], records[12:])
    assert found.lost_steps == 0
    assert found.effective_ratio == pytest.approx(5 * 0.1 / 5)


def test_without_a_step_there_is_no_ratio(records, make_event):
    assert cost(records, []).effective_ratio is None
    assert cost([], [make_event("GenerationBegun", 0)]).effective_ratio is None


def test_a_ratio_is_at_most_one(make_step):
    slow = [make_step(n, n, seconds={"total": 1.2}) for n in range(1, 4)]
    assert cost(slow[:1], slow[1:]).effective_ratio == 1.0


def test_deeds_are_summed_up_by_kind():
    deeds = [
        Overcome(Action.KILL_POD, 8.0),
        Overcome(Action.KILL_RANK, 0.4),
        Overcome(Action.KILL_RANK, 0.6),
        Overcome(Action.KILL_RANK, 2.0),
        Overcome(Action.KILL_RANK, None),
    ]
    assert list(rows(deeds)) == [
        ("kill-rank", "4", "600 ms", "2.0 s"),
        ("kill-pod", "1", "8.0 s", "8.0 s"),
        ("all", "5", "1.3 s", "8.0 s"),
    ]


def test_one_kind_alone_needs_no_sum():
    assert [row[0] for row in rows([Overcome(Action.KILL_RANK, 1.0)])] == ["kill-rank"]
    assert list(rows([Overcome(Action.KILL_RANK, None)])) == [("kill-rank", "1", "-", "-")]
    assert list(rows([])) == [("all", "0", "-", "-")]
