"""The display on a terminal: drawn anew from the view a few times a second."""

from collections.abc import Iterator, Sequence
from math import isfinite, log10
from typing import Final

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reknit.protocol.status import EventRecord
from reknit_operator.cli.display.view import View
from reknit_operator.cli.words import figure, plural, size, span

MAX_RANKS: Final = 12
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {
    "RankExited": "red",
    "Hung": "red",
    "ConnectionLost": "red",
    "AgentLost": "red",
    "CheckpointFailed": "red",
    "GenerationEnded": "yellow",
    "Draining": "yellow",
    "Straggler": "yellow",
    "StragglerGone": "green",
    "RecoveryFinished": "green",
    "Concluded": "green",
    "Evaluated": "magenta",
    "Checkpointed": "blue",
}
_PHASE_COLOURS: Final = {
    "Step": "green",
    "Function": "green",
    "Starting": "yellow",
    "Loading": "yellow",
}


class Screen:
    """A view, drawn.

    Args:
        view: what to draw.
        hint: a line below everything.
        output: the latest lines of the program.
        now: the time, seconds since the epoch; None: the time of the newest record.
    """

    def __init__(
        self, view: View, hint: str = "", output: Sequence[str] = (), now: float | None = None
    ) -> None:
        self.view = view
        self.elapsed = view.elapsed
        if now is not None and view.started is not None:
            self.elapsed = max(view.elapsed, now - view.started)
        self.hint = hint
        self.output = output

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view = self.view
        yield _title(view, self.elapsed)
        if view.total_steps:
            width = min(options.max_width - 2, 80)
            bar = ProgressBar(total=view.total_steps, completed=view.step, width=width)
            yield Padding(bar, (0, 1))
        yield Padding(_figures(view), (0, 1))
        if len(view.losses) > 1:
            shape = sparkline(view.losses, min(options.max_width - 8, 72))
            yield Text.assemble((" loss ", "dim"), (shape, "cyan"))
        if view.ranks or view.memory_bytes:
            yield Padding(_ranks(view), (1, 1, 0, 1))
        yield Padding(_events(view), (1, 1, 0, 1))
        if self.output:
            yield Padding(Group(*(Text(line, style="dim") for line in self.output)), (1, 1, 0, 1))
        if self.hint:
            yield Text(f" {self.hint}", style="dim italic")


def sparkline(values: Sequence[float], width: int) -> str:
    """The shape of a curve in one line of block characters, on a log scale where it spans decades.

    Values that are no numbers are drawn as `x`.
    """
    cells = list(values)
    if len(cells) > width:
        cells = [values[i * len(values) // width] for i in range(width)]
    known = [value for value in cells if isfinite(value)]
    if not known:
        return "x" * len(cells)
    is_log = min(known) > 0 and max(known) / min(known) > 20
    heights = [log10(v) if is_log and isfinite(v) else v for v in cells]
    finite = [height for height in heights if isfinite(height)]
    low, reach = min(finite), (max(finite) - min(finite)) or 1.0
    top = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[round((height - low) / reach * top)] if isfinite(height) else "x"
        for height in heights
    )


def _title(view: View, elapsed: float) -> Text:
    total = "" if view.total_steps is None else f" of {view.total_steps}"
    colour = {"Running": "green", "Recovering": "red", "Concluded": "green"}
    return Text.assemble(
        (f" {view.name} ", "bold"),
        (view.state, colour.get(view.state, "yellow")),
        f"  step {view.step}{total}",
        (f"  {span(elapsed)}", "dim"),
    )


def _figures(view: View) -> Columns:
    cells = [
        ("loss", "loss" in view.metrics and figure(view.metrics["loss"])),
        *((f"held-out {name}", figure(value)) for name, value in view.held_out.items()),
        ("samples/s", view.samples_per_second and figure(view.samples_per_second)),
        ("left", view.remaining_seconds and span(view.remaining_seconds)),
        ("grad norm", "grad_norm" in view.metrics and figure(view.metrics["grad_norm"])),
        ("rate", "learning_rate" in view.metrics and figure(view.metrics["learning_rate"])),
        ("checkpoint", view.checkpoint_step is not None and f"step {view.checkpoint_step}"),
        ("recoveries", view.recoveries and str(view.recoveries)),
        ("steps redone", view.redone and str(view.redone)),
    ]
    shown = [Text.assemble((f"{name} ", "dim"), str(text)) for name, text in cells if text]
    return Columns(shown, padding=(0, 3))


def _ranks(view: View) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("rank", "pod", "phase", "step", "memory"):
        table.add_column(title, justify="right" if title in {"rank", "step", "memory"} else "left")
    rows = list(_rank_rows(view))
    for row in rows[:MAX_RANKS]:
        table.add_row(*row)
    if len(rows) > MAX_RANKS:
        table.add_row("", f"and {plural(len(rows) - MAX_RANKS, 'rank')} more")
    return table


def _rank_rows(view: View) -> Iterator[tuple[Text, ...]]:
    for rank in view.ranks:
        phase = str(rank.phase)
        colour = {
            "Step": "green",
            "Function": "green",
            "Starting": "yellow",
            "Loading": "yellow",
        }.get(phase, "cyan")
        memory = view.memory_bytes.get(rank.rank)
        cells = (str(rank.rank), rank.agent, phase, str(rank.step), size(memory) if memory else "")
        styles = ("", "", colour, "", "")
        yield tuple(Text(cell, style) for cell, style in zip(cells, styles, strict=True))
    if not view.ranks:
        # Without a coordinator at hand, the history still tells who took the last step.
        for number, memory in sorted(view.memory_bytes.items()):
            yield (Text(str(number)), Text(), Text(), Text(str(view.step)), Text(size(memory)))


def _events(view: View) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column()
    for event in view.events:
        table.add_row(_at(view, event), Text(event.message, style=_COLOURS.get(event.reason, "")))
    return table


def _at(view: View, event: EventRecord) -> Text:
    return Text(span(event.time - (event.time if view.started is None else view.started)))
