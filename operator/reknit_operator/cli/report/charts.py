"""The report's charts. Pure: figures in, SVG out; colours come from the page's style."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from reknit_operator.cli.report.data import (
    PARTS,
    GenerationSpan,
    Mark,
    ReportData,
    finite,
    step_parts,
)
from reknit_operator.cli.report.scales import Scale, clock, clock_ticks, label, scale_for, thin
from reknit_operator.cli.report.svg import area, element, picture, polyline
from reknit_operator.cli.words import figure, plural, size, span

WIDE: Final = 1040.0
HALF: Final = 500.0
"""Widths of drawings in pixels of a wide window, so that figures are equally large in all."""
MAX_POINTS: Final = 600
STACK: Final = (*PARTS, "other")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the axes of a chart lie."""

    x: Scale
    y: Scale
    width: float = HALF
    height: float = 260.0
    left: float = 58.0
    right: float = 14.0
    top: float = 10.0
    bottom: float = 34.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point."""
        across = self.width - self.left - self.right
        down = self.height - self.top - self.bottom
        return self.left + self.x.place(x) * across, self.top + (1 - self.y.place(y)) * down

    def line(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """The places of many points."""
        return [self.at(x, y) for x, y in points]


def loss_chart(data: ReportData) -> str:
    """Loss over steps, evaluations as dots, recoveries as vertical lines."""
    losses, held_out = finite(data.losses), finite(data.evaluations)
    points = losses + (held_out if data.evaluated == "loss" else [])
    if not points:
        return ""
    x, y = scale_for([x for x, _ in points], fit=True), scale_for([y for _, y in points])
    frame = Frame(x, y, width=WIDE, height=320.0)
    parts = [*_axes(frame, "step", "loss, logarithmic" if frame.y.log else "loss")]
    parts += [
        _upright(frame, step, "recovery", f"went back to step {step}") for step in data.recovered_at
    ]
    parts.append(_path(frame.line(thin(losses, MAX_POINTS)), "line"))
    if data.evaluated == "loss":
        parts.append(_path(frame.line(held_out), "held-out-line"))
        parts += [
            _dot(frame.at(step, value), f"held-out loss {figure(value)} at step {step:.0f}")
            for step, value in held_out
        ]
    return picture(frame.width, frame.height, parts, "Loss by step")


def step_time_chart(data: ReportData) -> str:
    """The parts of each step's time, stacked."""
    steps = [step for step in data.steps if step.seconds]
    if not steps:
        return ""
    columns = _averaged([(float(step.step), step_parts(step)) for step in steps])
    totals = [sum(parts.values()) * 1000 for _, parts in columns]
    xs = [x for x, _ in columns]
    frame = Frame(scale_for(xs, fit=True), scale_for(_without_outliers(totals), from_zero=True))
    drawn = list(_axes(frame, "step", "milliseconds"))
    lower = [(x, 0.0) for x in xs]
    for part in STACK:
        upper = [
            (x, below + parts[part] * 1000)
            for (x, parts), (_, below) in zip(columns, lower, strict=True)
        ]
        mean = sum(parts[part] for _, parts in columns) / len(columns)
        if mean > 0:
            title = element("title", text=f"{part}: {span(mean)} on average")
            d = area(frame.line(upper), frame.line(lower))
            drawn.append(element("path", title, d=d, cls=f"part-{part}"))
        lower = upper
    return picture(frame.width, frame.height, drawn, "Step time by part")


def used_parts(data: ReportData) -> list[str]:
    """The parts that took any time, for the legend."""
    return [part for part in STACK if any(step_parts(s)[part] > 0 for s in data.steps if s.seconds)]


def memory_chart(data: ReportData) -> str:
    """Peak memory of each rank as a column."""
    if not data.peak_memory:
        return ""
    gib = [memory / 2**30 for _, memory in data.peak_memory]
    count = len(gib)
    frame = Frame(Scale(0.0, float(count)), scale_for(gib, from_zero=True))
    drawn = list(_axes(frame, "rank", "GiB", upright=False))
    every = max(1, -(-count // 24))
    for index, ((rank, memory), value) in enumerate(zip(data.peak_memory, gib, strict=True)):
        room = 0.5 - 0.5 * min(0.7, 60 / (HALF / count))
        left, top = frame.at(index + room, value)
        right, bottom = frame.at(index + 1 - room, 0.0)
        title = element("title", text=f"rank {rank}: {size(memory)} at most")
        drawn.append(
            element(
                "rect",
                title,
                x=left,
                y=top,
                width=right - left,
                height=bottom - top,
                rx=2,
                cls="column",
            )
        )
        if index % every == 0:
            drawn.append(
                element(
                    "text", text=str(rank), x=(left + right) / 2, y=bottom + 14, cls="tick middle"
                )
            )
    return picture(frame.width, frame.height, drawn, "Peak memory by rank")


def timeline(data: ReportData) -> str:
    """Generations on the clock, with what happened to them."""
    lanes: list[tuple[str, Sequence[Mark], str]] = [
        ("faults", data.faults, "fault"),
        ("recovered", data.recoveries, "recovered"),
        ("checkpoints", data.checkpoints, "checkpointed"),
        ("evaluations", data.held_out_marks, "evaluated"),
    ]
    lanes = [lane for lane in lanes if lane[1]]
    height = 76.0 + 24.0 * len(lanes)
    frame = Frame(
        Scale(0.0, max(data.seconds, 1e-3)), Scale(0.0, 1.0), width=WIDE, height=height, left=92.0
    )
    drawn = list(_time_axis(frame))
    drawn.append(element("text", text="generations", x=84.0, y=29.0, cls="tick end"))
    drawn += [_bar(frame, generation) for generation in data.generations]
    for index, (name, marks, cls) in enumerate(lanes):
        y = 54.0 + 24.0 * index
        drawn.append(element("text", text=name, x=84.0, y=y + 4, cls="tick end"))
        drawn.append(
            element("line", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y, cls="grid")
        )
        drawn += [
            element(
                "circle",
                element("title", text=f"{span(mark.at)}: {mark.text}"),
                cx=frame.at(mark.at, 0)[0],
                cy=y,
                r=5,
                cls=cls,
            )
            for mark in marks
        ]
    return picture(frame.width, frame.height, drawn, "Generations and events over time")


def _bar(frame: Frame, generation: GenerationSpan) -> str:
    """A generation; lighter until its ranks are ready."""
    left, ready, right = (
        frame.at(at, 0)[0] for at in (generation.start, generation.ready, generation.stop)
    )
    text = (
        f"generation {generation.name}, {plural(generation.ranks, 'rank')}, "
        f"{span(generation.stop - generation.start)}, "
        f"ready after {span(generation.ready - generation.start)}"
    )
    title = element("title", text=text)
    drawn = "".join(
        element(
            "rect", title, x=start, y=14.0, width=max(2.0, stop - start), height=22.0, rx=3, cls=cls
        )
        for start, stop, cls in ((left, ready, "starting"), (ready, right, "generation"))
        if stop > start
    )
    if right - ready > 40:
        x = (ready + right) / 2
        drawn += element("text", text=generation.name, x=x, y=29.0, cls="inside middle")
    return drawn


def _axes(frame: Frame, x_name: str, y_name: str, *, upright: bool = True) -> Iterator[str]:
    """Grid, figures and names; without `upright` the horizontal axis has no figures."""
    left, bottom = frame.at(frame.x.low, frame.y.low)
    right, top = frame.at(frame.x.high, frame.y.high)
    values = frame.y.ticks()
    for value in values:
        y = frame.at(frame.x.low, value)[1]
        yield element("line", x1=left, x2=right, y1=y, y2=y, cls="grid")
        text = label(value, None if frame.y.log else _distance(values))
        yield element("text", text=text, x=left - 8, y=y + 4, cls="tick end")
    if upright:
        values = [value for value in frame.x.ticks(8) if value == int(value)]
        for value in values:
            x = frame.at(value, frame.y.low)[0]
            text = label(value, _distance(values))
            yield element("text", text=text, x=x, y=bottom + 14, cls="tick middle")
    yield element("line", x1=left, x2=right, y1=bottom, y2=bottom, cls="axis")
    yield element("text", text=x_name, x=right, y=bottom + 29, cls="name end")
    yield element(
        "text", text=y_name, x=12.0, y=top, cls="name end", transform=f"rotate(-90 12 {top:.0f})"
    )


def _time_axis(frame: Frame) -> Iterator[str]:
    bottom = frame.height - frame.bottom + 6
    yield element(
        "line", x1=frame.left, x2=frame.width - frame.right, y1=bottom, y2=bottom, cls="axis"
    )
    for value in clock_ticks(frame.x.high):
        x = frame.at(value, 0)[0]
        yield element("line", x1=x, x2=x, y1=12.0, y2=bottom, cls="grid")
        yield element(
            "text", text=clock(value, frame.x.high), x=x, y=bottom + 15, cls="tick middle"
        )


def _upright(frame: Frame, step: float, cls: str, text: str) -> str:
    x, bottom = frame.at(step, frame.y.low)
    top = frame.at(step, frame.y.high)[1]
    return element("line", element("title", text=text), x1=x, x2=x, y1=top, y2=bottom, cls=cls)


def _path(points: Sequence[tuple[float, float]], cls: str) -> str:
    if len(points) == 1:
        return element("circle", cx=points[0][0], cy=points[0][1], r=2.5, cls=f"{cls} single")
    return element("path", d=polyline(points), cls=cls) if points else ""


def _dot(place: tuple[float, float], text: str) -> str:
    return element(
        "circle", element("title", text=text), cx=place[0], cy=place[1], r=4, cls="held-out"
    )


def _distance(values: Sequence[float]) -> float | None:
    return values[1] - values[0] if len(values) > 1 else None


def _averaged(
    columns: Sequence[tuple[float, dict[str, float]]], limit: int = 240
) -> list[tuple[float, dict[str, float]]]:
    """At most `limit` columns, each the mean of a stretch; at least two, to have an area."""
    if len(columns) == 1:
        return [(columns[0][0] - 0.5, columns[0][1]), (columns[0][0] + 0.5, columns[0][1])]
    groups = min(limit, len(columns))
    averaged = []
    for index in range(groups):
        start = index * len(columns) // groups
        stretch = columns[start : (index + 1) * len(columns) // groups]
        means = {
            part: sum(parts[part] for _, parts in stretch) / len(stretch) for part in stretch[0][1]
        }
        averaged.append((stretch[len(stretch) // 2][0], means))
    return averaged


def _without_outliers(values: Sequence[float]) -> list[float]:
    """Leaves out what lies far above nearly everything: a first step, a stall."""
    ordered = sorted(values)
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    return [value for value in ordered if value <= 2.5 * usual]
