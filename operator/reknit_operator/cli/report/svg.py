"""Small pure functions that write SVG."""

from collections.abc import Iterable, Sequence
from html import escape


def element(tag: str, *children: str, text: str | None = None, **attributes: object) -> str:
    """One element; underscores in names of attributes stand for hyphens, `cls` for class."""
    names = {"cls": "class"}
    given = "".join(
        f' {names.get(name, name.replace("_", "-"))}="{escape(_written(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(children) + ("" if text is None else escape(text))
    return f"<{tag}{given}>{inside}</{tag}>" if inside else f"<{tag}{given}/>"


def picture(width: float, height: float, parts: Iterable[str], title: str) -> str:
    """A whole drawing that fills the width it is given; `title` is read aloud."""
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_written(width)} {_written(height)}",
        role="img",
        aria_label=title,
    )


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a path through `points`."""
    return "".join(
        f"{'M' if index == 0 else 'L'}{_written(x)} {_written(y)}"
        for index, (x, y) in enumerate(points)
    )


def area(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> str:
    """The `d` of the area between two lines."""
    return polyline([*upper, *reversed(lower)]) + "Z" if upper else ""


def _written(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
