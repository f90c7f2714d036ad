"""What the end-to-end tests make of the words of ranks."""

import json

from stepmarks import Mark, longest_pause, parse, seconds_until_next_step, weights_by_step


def mark(rank, step, time, weights="a"):
    return Mark(rank, step, 1.0, time, weights)


def test_marks_are_found_among_other_words():
    told = {"rank": 1, "step": 3, "loss": 0.5, "time": 7.0, "weights": "w"}
    lines = ["starting", f"rank 1: STEP {json.dumps(told)}", "STEP {cut off", ""]
    assert parse(lines) == [Mark(1, 3, 0.5, 7.0, "w")]


def test_a_fault_lasts_until_every_rank_has_a_new_step():
    marks = [mark(0, 4, 1.0), mark(1, 4, 1.1), mark(0, 5, 3.0), mark(1, 5, 3.5), mark(0, 6, 4.0)]
    assert seconds_until_next_step(marks, 2.0, 2) == 1.5


def test_a_step_that_one_rank_had_completed_before_does_not_count():
    marks = [mark(0, 5, 1.0), mark(1, 5, 2.5), mark(0, 6, 3.0), mark(1, 6, 3.2)]
    assert seconds_until_next_step(marks, 2.0, 2) == 3.2 - 2.0


def test_a_newcomer_need_not_tell_of_the_steps_it_missed():
    marks = [mark(0, 5, 1.0), mark(1, 5, 1.0), mark(0, 6, 2.2), mark(0, 7, 4.0), mark(1, 7, 4.5)]
    assert seconds_until_next_step(marks, 2.0, 2) == 2.5


def test_it_is_not_over_while_a_rank_is_missing():
    assert seconds_until_next_step([mark(0, 1, 3.0)], 2.0, 2) is None


def test_steps_that_a_newcomer_was_told_of_do_not_count():
    marks = [mark(0, 1, 1.0, "a"), mark(0, 2, 2.0, "b"), mark(1, 1, 3.0, "b"), mark(1, 2, 3.1, "b")]
    assert weights_by_step(marks) == {1: {"a"}, 2: {"b"}}


def test_the_longest_pause_may_come_later():
    times = [(1, 1.0), (2, 2.0), (3, 2.1), (4, 5.1), (5, 5.2)]
    marks = [mark(rank, step, time + rank / 10) for step, time in times for rank in (0, 1)]
    assert longest_pause(marks, 2.05) == 5.1 + 0.1 - (2.1 + 0.1)


def test_a_pause_begins_with_the_fault():
    marks = [mark(0, 1, 1.0), mark(0, 2, 6.0), mark(0, 3, 6.5)]
    assert longest_pause(marks, 4.0) == 2.0


def test_weights_that_differ_are_seen():
    marks = [mark(0, 1, 1.0, "a"), mark(1, 1, 1.0, "b"), mark(0, 2, 2.0, "c")]
    assert weights_by_step(marks) == {1: {"a", "b"}, 2: {"c"}}
