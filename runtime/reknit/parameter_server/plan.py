"""Which server holds which part of the parameters. Pure arithmetic.

A model falls into as many ranges as there are servers. Dense parameters form one line of elements,
in the order of registration, and each range takes a contiguous stretch of it. A sparse table (an
embedding) is cut into runs of whole rows, so that each range has its share of every table: a step
moves all dense elements but few rows, and both loads are spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Final

from reknit.state.intervals import Interval, Placed, contiguous_partition, even_intervals

ELEMENT_BYTES: Final = 4
"""Servers hold FP32 masters, whatever workers compute in."""


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A trainable parameter of the model.

    Raises:
        ValueError: a table that is no matrix.
    """

    name: str
    shape: tuple[int, ...]
    is_table: bool = False
    """Its gradient concerns a few rows per step."""

    def __post_init__(self) -> None:
        if self.is_table and len(self.shape) != 2:
            raise ValueError(f"{self.name} is a table and must have rows and columns")

    @property
    def num_elements(self) -> int:
        """Elements of the flattened parameter."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class TableRows:
    """A run of a table's rows."""

    index: int
    """The table, by its place in `Plan.specs`."""
    rows: Interval
    width: int
    """Elements per row."""


@dataclass(frozen=True, slots=True)
class RangePlan:
    """What one range holds."""

    stretch: Interval
    """Of the line of dense elements."""
    dense: tuple[Placed, ...]
    """The same by parameter: `Placed.index` counts in `Plan.specs`, offsets from the stretch."""
    tables: tuple[TableRows, ...]

    @property
    def num_bytes(self) -> int:
        """Of its parameters."""
        rows = sum(len(table.rows) * table.width for table in self.tables)
        return (len(self.stretch) + rows) * ELEMENT_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole model, cut into ranges."""

    specs: tuple[ParameterSpec, ...]
    ranges: tuple[RangePlan, ...]


def plan_ranges(specs: Sequence[ParameterSpec], num_ranges: int) -> Plan:
    """Cuts a model so that each range has the same bytes, up to one row of the widest table.

    Rows that are left over when a table is divided go to the ranges with the fewest bytes so far.
    If no two ranges differ by more than the widest row before, none do afterwards.

    Raises:
        ValueError: fewer than one range.
    """
    if num_ranges < 1:
        raise ValueError(f"a model needs at least 1 range, not {num_ranges}")
    filled = [0] * num_ranges
    tables: list[list[TableRows]] = [[] for _ in range(num_ranges)]
    for index, spec in enumerate(specs):
        if spec.is_table:
            num_rows, width = spec.shape
            for part, rows in enumerate(_cut(num_rows, filled)):
                filled[part] += len(rows) * width
                if len(rows):
                    tables[part].append(TableRows(index, rows, width))
    dense = [index for index, spec in enumerate(specs) if not spec.is_table]
    sizes = [specs[index].num_elements for index in dense]
    offsets = [0, *accumulate(sizes)]
    ranges = []
    for part, stretch in enumerate(_stretches(offsets[-1], filled)):
        placed = tuple(
            Placed(dense[found.index], found.interval, found.offset)
            for found in contiguous_partition(offsets[:-1], sizes, stretch)
        )
        ranges.append(RangePlan(stretch, placed, tuple(tables[part])))
    return Plan(tuple(specs), tuple(ranges))


def place_ranges(num_servers: int, copies: int) -> tuple[tuple[int, int | None], ...]:
    """For each range, of which there are as many as servers, its first primary and backup.

    Every server is the primary of one range and the backup of its neighbour's.

    Raises:
        ValueError: other copies than 1 (no backup) or 2, or no server for a second one.
    """
    if copies not in (1, 2):
        raise ValueError(f"a range has 1 or 2 copies, not {copies}")
    if copies > num_servers:
        raise ValueError("2 copies of a range need at least 2 servers")
    if copies == 1:
        return tuple((server, None) for server in range(num_servers))
    return tuple((server, (server + 1) % num_servers) for server in range(num_servers))


def _cut(num_rows: int, filled: Sequence[int]) -> list[Interval]:
    """Consecutive runs of rows, one for each range."""
    base, extra = divmod(num_rows, len(filled))
    favoured = set(sorted(range(len(filled)), key=lambda part: (filled[part], part))[:extra])
    lengths = [base + (1 if part in favoured else 0) for part in range(len(filled))]
    bounds = [0, *accumulate(lengths)]
    return [Interval(bounds[part], bounds[part + 1]) for part in range(len(filled))]


def _stretches(num_elements: int, filled: Sequence[int]) -> list[Interval]:
    """Consecutive stretches of the dense line that make up for what tables have left uneven."""
    level = sum(filled) + num_elements
    targets = [len(even) for even in even_intervals(level, len(filled))]
    wanted = [max(0, target - have) for target, have in zip(targets, filled, strict=True)]
    # The dense elements may be too few to fill up all ranges: each then gets a part of its gap.
    gap, bounds = sum(wanted), [0]
    for reached in accumulate(wanted):
        bounds.append(reached * num_elements // gap if gap else 0)
    return [Interval(start, stop) for start, stop in pairwise(bounds)]
