"""Tables: boxed on a terminal, aligned text elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    right: bool = False
    """Numbers are aligned to the right."""


def show_table(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    marked: int | None = None,
) -> None:
    """Prints a table; row `marked` stands out."""
    if console.is_terminal:
        console.print(boxed(columns, rows, marked=marked))
        return
    for line in aligned(columns, rows):
        console.out(line, highlight=False)


def boxed(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, marked: int | None = None
) -> Table:
    """The table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left")
    for index, row in enumerate(rows):
        table.add_row(*(Text(cell) for cell in row), style="bold green" if index == marked else "")
    return table


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """The table as lines of text."""
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in [titles, *rows]
    ]
