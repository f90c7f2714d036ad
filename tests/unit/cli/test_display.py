"""Lines and the live display."""

import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from reknit.protocol.ranks import Phase
from reknit.protocol.status import (
    CoordinatorStatus,
    EventRecord,
    MembershipPhase,
    RankStatus,
    Record,
    StepRecord,
)
from reknit_operator.cli.display.lines import Lines
from reknit_operator.cli.display.live import MAX_RANKS, Screen, sparkline
from reknit_operator.cli.display.output import OutputTail
from reknit_operator.cli.display.shown import LiveDisplay, PlainDisplay, display_for
from reknit_operator.cli.display.view import View, fold, with_status


def drawn(view: View, width: int = 100, **arguments: object) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(Screen(view, **arguments))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_steps_are_told_at_a_humane_rate(make_step: Callable[..., StepRecord]) -> None:
    lines = Lines("tiny", period=timedelta(seconds=5))
    told = [
        number
        for number in range(1, 1001)
        if lines.feed(make_step(number, number / 100, total_steps=1000))
    ]
    # The first, one every five seconds, and the last.
    assert told == [1, 501, 1000]


def test_a_line_says_where_training_stands(make_step: Callable[..., StepRecord]) -> None:
    lines = Lines("tiny", period=timedelta(0))
    lines.feed(make_step(1, 1))
    assert lines.feed(make_step(2, 2)) == ["step 2/10  loss 2  8 samples/s  8.0 s left"]


def test_a_line_leaves_out_what_is_not_known(make_step: Callable[..., StepRecord]) -> None:
    lines = Lines("tiny")
    assert lines.feed(make_step(1, 1, total_steps=None, metrics={})) == ["step 1"]


def test_events_are_told_at_once(records: list[Record]) -> None:
    lines = Lines("tiny", period=timedelta(hours=1))
    told = [line for record in records for line in lines.feed(record)]
    assert "[6.5 s] RankExited: RankExited it is." in told
    assert sum(line.startswith("[") for line in told) == 9


def test_the_screen_shows_figures_ranks_and_events(records: list[Record]) -> None:
    rank = RankStatus(rank=1, agent="tiny-worker-1", node="n", phase=Phase.EVALUATION, step=10)
    status = CoordinatorStatus(incarnation=1, phase=MembershipPhase.RECOVERING, ranks=(rank,))
    text = drawn(with_status(fold(View("tiny"), records), status), hint="a hint", output=["said"])
    for part in (
        "tiny Recovering",
        "step 10 of 10",
        "held-out loss 0.5",
        "recoveries 1",
        "steps redone 1",
        "tiny-worker-1",
        "Evaluation",
        "512 MiB",
        "RankExited it is.",
        "a hint",
        "said",
    ):
        assert part in text


def test_the_screen_works_before_anything_is_known() -> None:
    assert "tiny Starting" in drawn(View("tiny"))


def test_the_clock_goes_on_while_nothing_happens(make_step: Callable[..., StepRecord]) -> None:
    step = make_step(1, 1)
    view = fold(View("tiny"), [step])
    assert "  0 ms" in drawn(view)
    assert "  2 min 00 s" in drawn(view, now=step.time + 120)


def test_without_a_coordinator_ranks_come_from_the_history(records: list[Record]) -> None:
    assert "1.0 GiB" in drawn(fold(View("tiny"), records))


def test_many_ranks_are_cut_short(make_step: Callable[..., StepRecord]) -> None:
    memory = dict.fromkeys(range(MAX_RANKS + 30), 2**20)
    text = drawn(fold(View("tiny"), [make_step(1, 1, memory_bytes=memory)]))
    assert "and 30 ranks more" in text


@pytest.mark.parametrize("width", [30, 60, 200])
def test_the_screen_fits_any_terminal(records: list[Record], width: int) -> None:
    text = drawn(fold(View("tiny"), records), width=width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_text_from_outside_is_no_markup(make_event: Callable[..., EventRecord]) -> None:
    view = fold(View("tiny"), [make_event("RankExited", 1, message="[red]failed[/] [0]")])
    assert "[red]failed[/] [0]" in drawn(view)


def test_a_sparkline_shows_the_shape() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 20) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5], 20) == "▁▁▁"
    assert len(sparkline(list(range(1000)), 50)) == 50


def test_a_sparkline_is_logarithmic_over_decades() -> None:
    assert sparkline([1, 10, 100], 20) == "▁▅█"


def test_a_sparkline_marks_what_is_no_number() -> None:
    assert sparkline([1, float("nan"), 2], 20) == "▁x█"
    assert sparkline([float("inf")], 20) == "x"


def test_output_of_the_program_is_told_apart_from_the_agents(tmp_path: Path) -> None:
    log = tmp_path / "tiny-worker-0.log"
    log.write_text("from an earlier run\n")
    (tmp_path / "tiny-coordinator-1.log").write_text("not of the program\n")
    tail = OutputTail(tmp_path)
    with log.open("a") as stream:
        stream.write("[agent tiny-worker-0] ready\nhello\n\nhalf a li")
        stream.flush()
        assert list(tail.fresh()) == [("tiny-worker-0", "hello")]
        stream.write("ne\n")
    (tmp_path / "tiny-worker-1.log").write_text("new pod\n")
    (tmp_path / "tiny-spare-0.log").write_text("a spare\n")
    assert list(tail.fresh()) == [
        ("tiny-spare-0", "a spare"),
        ("tiny-worker-0", "half a line"),
        ("tiny-worker-1", "new pod"),
    ]
    assert list(tail.fresh()) == []


def test_output_without_logs_is_nothing(tmp_path: Path) -> None:
    assert list(OutputTail(tmp_path / "logs").fresh()) == []


def test_the_plain_display_prints_as_things_happen(records: list[Record], tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    tail = OutputTail(tmp_path)
    display = display_for(console, "tiny", tail)
    assert isinstance(display, PlainDisplay)
    (tmp_path / "tiny-worker-0.log").write_text("hello\n")
    with display:
        display.recall(records[:1])
        display.show(records[1:3], None)
        display.say("a sentence [bold]as it is[/]")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "[1.0 s] Resumed: Resumed it is.",
        "step 1/10  loss 4",
        "tiny-worker-0 | hello",
        "a sentence [bold]as it is[/]",
    ]
    assert display.view.step == 1


def test_the_live_display_draws_and_leaves_the_programs_output(
    records: list[Record], tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    tail = OutputTail(tmp_path)
    display = display_for(console, "tiny", tail)
    assert isinstance(display, LiveDisplay)
    (tmp_path / "tiny-worker-0.log").write_text("hello\n")
    with display:
        display.show(records, None)
        display.say("wait")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "step 10 of 10" in text
    assert "wait" in text
    assert text.endswith("tiny-worker-0 | hello\n")
    assert display.view.step == 10
