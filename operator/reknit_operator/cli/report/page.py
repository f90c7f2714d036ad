"""The report's page. Pure: figures in, HTML out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from reknit.protocol.status import EventRecord
from reknit_operator.cli.report import charts
from reknit_operator.cli.report.data import ReportData
from reknit_operator.cli.words import count, figure, plural, size, span
from reknit_operator.planning.plan import Plan

MAX_EVENTS: Final = 500


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job besides its history."""

    manifest: Mapping[str, Any]
    """The object as it was run; empty when it is not known."""
    plan: Plan | None = None


def page(name: str, data: ReportData, job: JobFacts, style: str) -> str:
    """The whole document."""
    body = "".join(
        [
            _header(name, data),
            _figures(data),
            '<section class="charts">',
            _chart("Loss", charts.loss_chart(data), _loss_legend(data), wide=True),
            _chart("Step time", charts.step_time_chart(data), _part_legend(data)),
            _chart("Peak memory by rank", charts.memory_chart(data), _memory_note(data, job.plan)),
            _chart("Timeline", charts.timeline(data), "", wide=True),
            _card("Job", _facts(job), wide=True),
            _card("Events", _events(data), wide=True),
            "</section>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whatever a log or a name contains, the page loads nothing and runs nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(name)} - Reknit</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _header(name: str, data: ReportData) -> str:
    began = datetime.fromtimestamp(data.start, UTC)
    label, kind = _end(data.events)
    return (
        f'<header><h1>{escape(name)}</h1><span class="badge {kind}">{escape(label)}</span>'
        f'<span class="when">began {began:%Y-%m-%d %H:%M} UTC, {span(data.seconds)}</span></header>'
    )


def _end(events: Sequence[EventRecord]) -> tuple[str, str]:
    """How the job ended, and whether that is good or bad."""
    ends = [event for event in events if event.reason == "Concluded"]
    if not ends:
        return "not finished", ""
    if "Succeeded" in ends[-1].message:
        return "Succeeded", "good"
    return "Failed", "bad"


def _figures(data: ReportData) -> str:
    view = data.view
    rate = _throughput(data)
    total = "" if view.total_steps is None else f" of {view.total_steps:,}"
    shown = [
        (f"{view.step:,}", f"steps{total}"),
        *((figure(value), f"held-out {name}") for name, value in view.held_out.items()),
        (figure(data.losses[-1][1]) if data.losses else "", "training loss"),
        (figure(rate) if rate else "", "samples per second"),
        (str(view.recoveries) if view.faults or view.recoveries else "", "recoveries"),
        (str(view.redone) if view.recoveries or view.redone else "", "steps redone"),
        (span(data.seconds), "in all"),
    ]
    cards = "".join(
        f'<div class="card"><b>{escape(text)}</b><span>{escape(name)}</span></div>'
        for text, name in shown
        if text
    )
    return f'<section class="figures">{cards}</section>'


def _throughput(data: ReportData) -> float | None:
    """Samples per second of a usual step."""
    rates = sorted(
        step.samples / step.seconds["total"] for step in data.steps if step.seconds.get("total")
    )
    return rates[len(rates) // 2] if rates else None


def _card(title: str, inside: str, *, wide: bool = False) -> str:
    if not inside:
        return ""
    return f'<div class="card{" wide" if wide else ""}"><h2>{escape(title)}</h2>{inside}</div>'


def _chart(title: str, drawing: str, legend: str, *, wide: bool = False) -> str:
    return _card(title, drawing + legend, wide=wide) if drawing else ""


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><i class="{cls}"></i>{escape(text)}</li>' for cls, text in entries)
    return f'<ul class="legend">{items}</ul>'


def _loss_legend(data: ReportData) -> str:
    entries = [("key-line", "training")]
    if data.evaluations and data.evaluated == "loss":
        entries.append(("key-held-out", "held out"))
    if data.recovered_at:
        entries.append(("key-recovery", "a recovery went back to here"))
    return _legend(entries)


def _part_legend(data: ReportData) -> str:
    return _legend([(f"part-{part}", part) for part in charts.used_parts(data)])


def _memory_note(data: ReportData, plan: Plan | None) -> str:
    chosen = [choice for choice in plan.choices if choice.chosen] if plan else []
    if not chosen or not data.peak_memory:
        return ""
    total = size(chosen[0].memory.total)
    return (
        f'<p class="when">The plan counts {total} of state and temporary values for each rank; '
        "Python and its libraries come on top.</p>"
    )


def _facts(job: JobFacts) -> str:
    found = [*_manifest_facts(job.manifest), *_plan_facts(job.plan)]
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in found
    )
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _manifest_facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    spec = manifest.get("spec", {})
    entrypoint = spec.get("entrypoint", {})
    if "function" in entrypoint:
        yield "function", str(entrypoint["function"])
    if "command" in entrypoint:
        yield "command", " ".join(entrypoint["command"])
    for key, value in entrypoint.get("config", {}).items():
        yield f"config.{key}", str(value)
    yield from (
        (name, str(spec[name])) for name in ("precision", "seed", "framework") if name in spec
    )


def _plan_facts(plan: Plan | None) -> Iterator[tuple[str, str]]:
    if plan is None:
        return
    yield "world", f"{plural(plan.world_size, 'rank')} in {plural(plan.num_pods, 'pod')}"
    yield from (("sharding", str(choice.sharding)) for choice in plan.choices if choice.chosen)
    if plan.batch is not None:
        batch = plan.batch
        yield (
            "batch",
            f"{batch.global_batch} samples, {batch.micro} at a time, "
            f"{plural(batch.passes_per_rank, 'pass', 'passes')} per rank",
        )
    if plan.num_parameters is not None:
        yield "parameters", count(plan.num_parameters)
    if plan.optimizer is not None:
        yield "optimizer", plan.optimizer
    if plan.num_samples is not None:
        yield "samples", f"{plan.num_samples:,}"


def _events(data: ReportData) -> str:
    rows = "".join(_event_row(event, data.start) for event in data.events[-MAX_EVENTS:])
    number = '<th class="number">'
    head = f"<tr>{number}at</th>{number}step</th><th>what</th><th></th></tr>"
    left = len(data.events) - MAX_EVENTS
    note = f'<p class="when">The first {left:,} events are left out.</p>' if left > 0 else ""
    return f'<div class="scroll"><table>{head}{rows}</table></div>{note}' if rows else ""


def _event_row(event: EventRecord, start: float) -> str:
    step = "" if event.step is None else f"{event.step:,}"
    detail = event.detail or ""
    if "\n" in detail:
        detail = f"<pre>{escape(detail)}</pre>"
    elif detail:
        detail = f'<div class="when">{escape(detail)}</div>'
    return (
        f'<tr><td class="number">{span(event.time - start)}</td><td class="number">{step}</td>'
        f'<td class="{escape(event.reason)}">{escape(event.reason)}</td>'
        f"<td>{escape(event.message)}{detail}</td></tr>"
    )
