"""The report: what it says, that it is well-formed, and that it needs nothing else."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reknit.protocol.inspection import Inspection
from reknit.protocol.status import EventRecord, Record, StepRecord
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli import rundir
from reknit_operator.cli.manifests import local_settings
from reknit_operator.cli.refusal import Refusal
from reknit_operator.cli.report import charts
from reknit_operator.cli.report.build import write_report
from reknit_operator.cli.report.data import GenerationSpan, gather, step_parts
from reknit_operator.cli.report.page import JobFacts, page
from reknit_operator.planning.plan import make_plan

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Checks that elements are closed in order; collects text, tags and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in {"src", "href", "xlink:href"}]

    def handle_startendtag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def drawing(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def of_class(svg: str, name: str) -> list[ET.Element]:
    return [found for found in drawing(svg).iter() if name in found.get("class", "").split()]


def titles(svg: str) -> list[str]:
    return [found.text or "" for found in drawing(svg).iter("title")]


def test_steps_that_were_taken_again_stand_once(records: list[Record]) -> None:
    data = gather("tiny", records)
    assert [record.step for record in data.steps] == list(range(1, 11))
    assert data.losses[4] == (5, 0.7)
    assert data.recovered_at == (4,)
    assert data.evaluations == ((10, 0.5),)
    assert data.peak_memory == ((0, 2**30), (1, 2**29))


def test_generations_end_with_their_fault_or_the_job(records: list[Record]) -> None:
    assert gather("tiny", records).generations == (
        GenerationSpan(name="1.1", start=0, ready=1, stop=6.5, ranks=2),
        GenerationSpan(name="1.2", start=7, ready=7.5, stop=14, ranks=2),
    )


def test_a_generation_under_way_ends_with_its_newest_record(
    make_step: Callable[..., StepRecord], make_event: Callable[..., EventRecord]
) -> None:
    data = gather("tiny", [make_event("GenerationBegun", 0), make_step(1, 3)])
    assert (data.generations[0].ready, data.generations[0].stop) == (3, 3)


def test_evaluations_without_a_loss_show_their_figure_in_the_summary_only(
    make_step: Callable[..., StepRecord], make_event: Callable[..., EventRecord]
) -> None:
    accuracy = make_event("Evaluated", 3, step=1, figures={"accuracy": 0.9})
    data = gather("tiny", [make_step(1, 1), make_step(2, 2), accuracy])
    assert (data.evaluated, data.evaluations) == ("accuracy", ((1, 0.9),))
    assert of_class(charts.loss_chart(data), "held-out") == []
    assert "held-out accuracy" in page("tiny", data, JobFacts({}), "")


def test_the_rest_of_a_step_is_other(make_step: Callable[..., StepRecord]) -> None:
    parts = step_parts(make_step(1, 1))
    assert parts["forward"] == 0.02
    assert parts["other"] == pytest.approx(0.05)
    assert step_parts(make_step(1, 1, seconds={"data": 2.0, "total": 1.0}))["other"] == 0


def test_the_loss_chart_marks_evaluations_and_recoveries(records: list[Record]) -> None:
    svg = charts.loss_chart(gather("tiny", records))
    assert "held-out loss 0.5 at step 10" in titles(svg)
    assert len(of_class(svg, "recovery")) == 1
    assert len(of_class(svg, "line")) == 1


def test_the_loss_chart_draws_what_can_be_drawn(make_step: Callable[..., StepRecord]) -> None:
    nan, inf = ({"loss": float(text)} for text in ("nan", "inf"))
    broken = [make_step(1, 1), make_step(2, 2, metrics=nan), make_step(3, 3, metrics=inf)]
    svg = charts.loss_chart(gather("tiny", broken))
    assert "nan" not in svg
    assert "inf" not in svg
    assert of_class(svg, "single")
    assert charts.loss_chart(gather("tiny", [make_step(1, 1, metrics={})])) == ""


def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_axis(
    make_step: Callable[..., StepRecord],
) -> None:
    steps = [make_step(n, n, metrics={"loss": 10.0 ** (2 - n)}) for n in range(1, 5)]
    assert "loss, logarithmic" in charts.loss_chart(gather("tiny", steps))


def test_the_parts_of_a_step_are_stacked_in_order(records: list[Record]) -> None:
    data = gather("tiny", records)
    svg = charts.step_time_chart(data)
    drawn = [e.get("class") for e in drawing(svg).iter("path")]
    assert drawn == ["part-forward", "part-backward", "part-other"]
    assert charts.used_parts(data) == ["forward", "backward", "other"]
    assert "forward: 20 ms on average" in titles(svg)


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_charts_of_any_length_stay_small(make_step: Callable[..., StepRecord], count: int) -> None:
    data = gather("tiny", [make_step(n, n) for n in range(1, count + 1)])
    for chart in (charts.loss_chart, charts.step_time_chart, charts.timeline):
        svg = chart(data)
        drawing(svg)
        assert len(svg) < 100_000


@pytest.mark.parametrize("ranks", [1, 4, 300])
def test_every_rank_has_a_column(make_step: Callable[..., StepRecord], ranks: int) -> None:
    memory = {rank: 2**30 + rank for rank in range(ranks)}
    svg = charts.memory_chart(gather("tiny", [make_step(1, 1, memory_bytes=memory)]))
    assert len(of_class(svg, "column")) == ranks
    assert "rank 0: 1.0 GiB at most" in titles(svg)


def test_a_column_is_as_high_as_its_memory(records: list[Record]) -> None:
    columns = of_class(charts.memory_chart(gather("tiny", records)), "column")
    heights = [float(column.get("height", "0")) for column in columns]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.02)


def test_charts_without_figures_are_left_out(make_event: Callable[..., EventRecord]) -> None:
    data = gather("tiny", [make_event("AgentJoined", 0)])
    assert (
        charts.loss_chart(data) == charts.step_time_chart(data) == charts.memory_chart(data) == ""
    )
    text = page("tiny", data, JobFacts({}), "")
    assert "Step time" not in text
    Outline(text)


def test_the_timeline_tells_generations_and_events(records: list[Record]) -> None:
    svg = charts.timeline(gather("tiny", records))
    assert len(of_class(svg, "generation")) == len(of_class(svg, "starting")) == 2
    for kind in ("fault", "recovered", "checkpointed", "evaluated"):
        assert len(of_class(svg, kind)) == 1
    assert "6.5 s: RankExited it is." in titles(svg)


def test_what_happens_later_stands_further_right(records: list[Record]) -> None:
    svg = charts.timeline(gather("tiny", records))
    fault, evaluation = (of_class(svg, kind)[0] for kind in ("fault", "evaluated"))
    assert float(fault.get("cx", "0")) < float(evaluation.get("cx", "0"))


def test_the_page_needs_nothing_else(records: list[Record]) -> None:
    outline = Outline(page("tiny", gather("tiny", records), JobFacts({}), "body{}"))
    assert outline.addresses == []
    assert not outline.tags & {"script", "link", "img", "iframe", "object"}
    assert "svg" in outline.tags


def test_the_style_loads_nothing(
    tmp_path: Path, records: list[Record], job: DistributedTrainingJob
) -> None:
    text = written(tmp_path, records).read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in text


def test_text_from_outside_cannot_become_markup(make_event: Callable[..., EventRecord]) -> None:
    bad = "</title><script>alert(1)</script>"
    data = gather(bad, [make_event("RankExited", 0, message=bad, detail=bad)])
    facts = JobFacts({"spec": {"entrypoint": {"function": bad, "config": {bad: bad}}}})
    outline = Outline(page(bad, data, facts, ""))
    assert "script" not in outline.tags
    assert outline.text.count("alert(1)") >= 5


@pytest.mark.parametrize(
    ("message", "badge"),
    [
        ("The job is concluded as Succeeded: done.", "Succeeded"),
        ("The job is concluded as ProgramError: x.", "Failed"),
        (None, "not finished"),
    ],
)
def test_the_badge_says_how_it_ended(
    make_event: Callable[..., EventRecord], message: str | None, badge: str
) -> None:
    ends = [make_event("Concluded", 1, message=message)] if message else []
    data = gather("tiny", [make_event("AgentJoined", 0), *ends])
    assert badge in Outline(page("tiny", data, JobFacts({}), "")).text.splitlines()


def test_a_short_detail_is_a_line_and_a_traceback_keeps_its_lines(
    make_event: Callable[..., EventRecord],
) -> None:
    events = [make_event("A", 0, detail="one line"), make_event("B", 1, detail="two\nlines")]
    text = page("tiny", gather("tiny", events), JobFacts({}), "")
    assert '<div class="when">one line</div>' in text
    assert "<pre>two\nlines</pre>" in text


def test_a_long_history_shows_its_latest_events(make_event: Callable[..., EventRecord]) -> None:
    data = gather("tiny", [make_event("AgentJoined", at, message=f"m{at}.") for at in range(700)])
    text = Outline(page("tiny", data, JobFacts({}), "")).text
    assert "The first 200 events are left out." in text
    assert "m699." in text
    assert "m199." not in text.splitlines()


def written(run_dir: Path, records: list[Record]) -> Path:
    text = "".join(record.model_dump_json() + "\n" for record in records)
    (run_dir / rundir.HISTORY).write_text(text)
    return write_report(run_dir)


def test_a_report_is_made_from_the_folder_alone(
    tmp_path: Path, records: list[Record], job: DistributedTrainingJob, inspection: Inspection
) -> None:
    rundir.describe(tmp_path, job, make_plan(local_settings(job, tmp_path), inspection))
    report = written(tmp_path, records)
    assert report == tmp_path / "report.html"
    outline = Outline(report.read_text())
    for part in ("tiny", "Succeeded", "config.steps", "torch.optim.sgd.SGD", "2 ranks in 2 pods"):
        assert part in outline.text
    before = report.read_text()
    assert write_report(tmp_path).read_text() == before


def test_a_folder_without_a_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="holds no history"):
        write_report(tmp_path)
