"""Axes, ticks, and SVG's small change."""

import xml.etree.ElementTree as ET
from math import inf, nan

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reknit_operator.cli.report.scales import (
    Scale,
    clock,
    clock_ticks,
    label,
    log_ticks,
    scale_for,
    thin,
    ticks,
)
from reknit_operator.cli.report.svg import area, element, picture, polyline

FIGURES = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(FIGURES, min_size=1))
def test_all_values_lie_on_their_axis(values: list[float]) -> None:
    scale = scale_for(values)
    assert scale.low < scale.high
    assert all(scale.low <= value <= scale.high for value in values)
    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places)


@given(st.floats(1e-6, 1e6), st.floats(1e-9, 1e9))
@example(975203.17, 1e-9)
def test_ticks_are_round_and_inside(low: float, width: float) -> None:
    high = low + width
    found = ticks(low, high)
    assert all(low - width * 1e-6 <= tick <= high + width * 1e-6 for tick in found)
    assert len(found) <= 7


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-1, 1.2, [-1, -0.5, 0, 0.5, 1]),
        (1, 200, [50, 100, 150, 200]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_logarithmic_ticks() -> None:
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert log_ticks(1, 30) == [1, 2, 5, 10, 20]
    assert Scale(1, 1000, log=True).ticks() == [1, 10, 100, 1000]


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (4, ["0 s", "0.5 s", "1 s", "1.5 s", "2 s", "2.5 s", "3 s", "3.5 s", "4 s"]),
        (45, ["0 s", "10 s", "20 s", "30 s", "40 s"]),
        (137, ["0:00", "0:30", "1:00", "1:30", "2:00"]),
        (20_000, ["0:00 h", "1:00 h", "2:00 h", "3:00 h", "4:00 h", "5:00 h"]),
    ],
)
def test_times_are_told_as_people_count_them(longest: float, expected: list[str]) -> None:
    assert [clock(tick, longest) for tick in clock_ticks(longest)] == expected


@given(st.floats(1e-3, 1e8))
def test_there_are_few_times_and_all_inside(longest: float) -> None:
    found = clock_ticks(longest)
    assert found[0] == 0
    assert found[-1] <= longest * (1 + 1e-9)
    assert 1 <= len(found) <= 11


def test_a_wide_spread_of_positive_values_is_logarithmic() -> None:
    assert scale_for([0.01, 1, 5]).log
    assert not scale_for([1, 5]).log
    assert not scale_for([-1, 0.001, 500]).log
    assert not scale_for([1, 500], from_zero=True).log
    assert not scale_for([1, 500], fit=True).log


def test_places() -> None:
    assert Scale(0, 10).place(2.5) == 0.25
    assert Scale(0, 10).place(-5) == 0
    assert Scale(0, 10).place(50) == 1
    assert Scale(1, 100, log=True).place(10) == 0.5
    assert Scale(1, 100, log=True).place(-3) == 0


def test_an_axis_without_values_is_still_one() -> None:
    assert scale_for([nan, inf]) == scale_for([0.0, 1.0])
    assert scale_for([3.0]).place(3.0) == 0.5
    assert scale_for([3.0], fit=True).place(3.0) == 0
    assert scale_for([0.0], from_zero=True).high == 1


@pytest.mark.parametrize(
    ("value", "distance", "text"),
    [
        (0.2, 0.2, "0.2"),
        (1.0, 0.2, "1.0"),
        (0.25, 0.25, "0.25"),
        (2.5, 2.5, "2.5"),
        (20_000, 5000, "20,000"),
        (2e7, 1e7, "2e+07"),
        (0, 0.5, "0.0"),
        (0.001, None, "0.001"),
    ],
)
def test_labels_have_no_more_digits_than_needed(
    value: float, distance: float | None, text: str
) -> None:
    assert label(value, distance) == text


@given(st.lists(FIGURES, min_size=1, max_size=400), st.integers(4, 50))
def test_thinning_keeps_ends_extremes_and_order(values: list[float], limit: int) -> None:
    points = [(float(index), value) for index, value in enumerate(values)]
    kept = thin(points, limit)
    assert len(kept) <= limit + 2
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert max(y for _, y in kept) == max(values)
    assert min(y for _, y in kept) == min(values)


def test_elements_escape_what_they_are_given() -> None:
    text = element("text", text='<&>"', cls='a"b', font_size=1.5, x=None)
    found = ET.fromstring(text)
    assert found.text == '<&>"'
    assert found.attrib == {"class": 'a"b', "font-size": "1.5"}


def test_numbers_are_short() -> None:
    assert element("g", x=1.0, y=2.345678) == '<g x="1" y="2.35"/>'


def test_paths() -> None:
    assert polyline([(0, 0), (1.5, 2)]) == "M0 0L1.5 2"
    assert polyline([]) == area([], []) == ""
    assert area([(0.0, 1.0), (2.0, 1.0)], [(0.0, 0.0), (2.0, 0.0)]) == "M0 1L2 1L2 0L0 0Z"


def test_a_picture_has_a_name() -> None:
    found = ET.fromstring(picture(10.0, 5.0, [element("g")], "Loss"))
    assert found.attrib == {"viewBox": "0 0 10 5", "role": "img", "aria-label": "Loss"}
