"""Durations."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit_operator.api.duration import MAX_LENGTH, parse, render

MAX_SECONDS = 999_999 * 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1d2h3m4s", 93784),
    ],
)
def test_parse(text, seconds):
    assert parse(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "10", "0s", "00s", "1.5h", "-1m", "1m1h", "1m1m", "10 m", "10M", "1w", "1s\n", "1ms"],
)
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="is no duration, write for example 90s, 10m or 1h30m"):
        parse(text)


@given(st.integers(1, MAX_SECONDS))
def test_render_is_read_back_as_the_same(seconds):
    text = render(timedelta(seconds=seconds))

    assert parse(text) == timedelta(seconds=seconds)
    assert len(text) <= MAX_LENGTH


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "1m30s"), (600, "10m"), (3600, "1h"), (86400, "1d"), (59, "59s")]
)
def test_render_is_short(seconds, text):
    assert render(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize("seconds", [0, -5, 0.5, 1.5])
def test_render_refuses_what_parse_could_not_give(seconds):
    with pytest.raises(ValueError, match="whole, positive number of seconds"):
        render(timedelta(seconds=seconds))
