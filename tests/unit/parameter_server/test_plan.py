import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.parameter_server.plan import (
    ELEMENT_BYTES,
    ParameterSpec,
    Plan,
    place_ranges,
    plan_ranges,
)
from reknit.state.intervals import Interval

DENSE = st.lists(st.integers(0, 5), max_size=3).map(tuple)
TABLE = st.tuples(st.integers(0, 30), st.integers(1, 6))


@st.composite
def models(draw: st.DrawFn) -> list[ParameterSpec]:
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=8))
    return [
        ParameterSpec(f"p{index}", draw(TABLE if is_table else DENSE), is_table)
        for index, is_table in enumerate(kinds)
    ]


def elements(plan: Plan) -> list[tuple[int, int]]:
    """(parameter, element) of everything that some range holds."""
    found = []
    for part in plan.ranges:
        for placed in part.dense:
            found += [(placed.index, i) for i in range(placed.interval.start, placed.interval.stop)]
        for table in part.tables:
            first, last = table.rows.start * table.width, table.rows.stop * table.width
            found += [(table.index, i) for i in range(first, last)]
    return found


@given(models(), st.integers(1, 6))
def test_every_element_lies_in_exactly_one_range(specs, num_ranges):
    found = elements(plan_ranges(specs, num_ranges))
    wanted = [(p, i) for p, spec in enumerate(specs) for i in range(spec.num_elements)]
    assert sorted(found) == wanted


@given(models(), st.integers(1, 6))
def test_ranges_differ_by_one_row_at_most(specs, num_ranges):
    sizes = [part.num_bytes for part in plan_ranges(specs, num_ranges).ranges]
    widest = max((spec.shape[1] for spec in specs if spec.is_table), default=1)
    assert max(sizes) - min(sizes) <= widest * ELEMENT_BYTES


@given(models(), st.integers(1, 6))
def test_dense_parts_fill_their_stretch_in_order(specs, num_ranges):
    plan = plan_ranges(specs, num_ranges)
    stop = 0
    for part in plan.ranges:
        assert part.stretch.start == stop
        stop = part.stretch.stop
        offset = 0
        for placed in part.dense:
            assert placed.offset == offset
            offset += len(placed.interval)
        assert offset == len(part.stretch)


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 6))
def test_each_range_has_its_share_of_every_table(num_rows, width, num_ranges):
    specs = [ParameterSpec("one", (num_rows, width), True), ParameterSpec("two", (50, 3), True)]
    plan = plan_ranges(specs, num_ranges)
    for index, rows in enumerate((num_rows, 50)):
        held = [sum(len(t.rows) for t in p.tables if t.index == index) for p in plan.ranges]
        assert max(held) - min(held) <= 1
        assert sum(held) == rows


def test_dense_elements_make_up_for_uneven_tables():
    """A row of 100 is left over; the 150 dense elements even that out."""
    specs = [ParameterSpec("table", (3, 100), True), ParameterSpec("dense", (150,))]
    plan = plan_ranges(specs, 2)
    assert [len(part.stretch) for part in plan.ranges] == [25, 125]
    assert [part.num_bytes for part in plan.ranges] == [900, 900]
    assert [part.tables[0].rows for part in plan.ranges] == [Interval(0, 2), Interval(2, 3)]


@pytest.mark.parametrize(
    ("servers", "copies", "expected"),
    [
        (1, 1, ((0, None),)),
        (2, 1, ((0, None), (1, None))),
        (2, 2, ((0, 1), (1, 0))),
        (3, 2, ((0, 1), (1, 2), (2, 0))),
    ],
)
def test_a_backup_is_on_another_server(servers, copies, expected):
    assert place_ranges(servers, copies) == expected


@pytest.mark.parametrize(("servers", "copies"), [(2, 0), (2, 3), (1, 2)])
def test_copies_that_cannot_be_are_refused(servers, copies):
    with pytest.raises(ValueError, match="cop"):
        place_ranges(servers, copies)


def test_a_table_has_two_dimensions_and_a_model_a_range():
    with pytest.raises(ValueError, match="rows and columns"):
        ParameterSpec("bias", (3,), is_table=True)
    with pytest.raises(ValueError, match="at least 1 range"):
        plan_ranges([], 0)
