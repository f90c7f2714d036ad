"""Figures in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit_operator.cli import words


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (150 * 2**20, "150 MiB"),
        (2**30, "1.0 GiB"),
        (3 * 2**60, "3072 PiB"),
    ],
)
def test_size(num_bytes: int, text: str) -> None:
    assert words.size(num_bytes) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (999, "999"), (1234, "1.2K"), (838_000, "838K"), (7e9, "7.0B"), (3e15, "3000T")],
)
def test_count(number: float, text: str) -> None:
    assert words.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (130, "2 min 10 s"),
        (3600, "1 h 00 min"),
        (90_000, "1 d 01 h"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    assert words.span(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2.30258, "2.303"),
        (0.001, "0.001"),
        (1.5e-7, "1.5e-07"),
        (12345.6, "12,346"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_figure(value: float, text: str) -> None:
    assert words.figure(value) == text


@given(st.floats(1e-9, 1e12))
def test_a_figure_is_near_its_value(value: float) -> None:
    assert float(words.figure(value).replace(",", "")) == pytest.approx(value, rel=6e-3)


def test_plural() -> None:
    assert words.plural(1, "rank") == "1 rank"
    assert words.plural(2000, "rank") == "2,000 ranks"
    assert words.plural(2, "batch", "batches") == "2 batches"
