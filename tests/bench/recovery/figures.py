"""What is printed: pure but for the console."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from evidence import Recovered

IMPORT = "import"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(share * 1000) * len(ordered) // 1000) - 1)]


def row(strategy: str, found: Sequence[Recovered]) -> dict[str, Any]:
    """The figures of one contestant."""
    seconds = [each.seconds for each in found]
    held = [each.held_seconds for each in found]
    phases = dict.fromkeys(name for each in found for name in each.phases)
    moments = Counter(each.hit.moment.name.lower() for each in found)
    return {
        "strategy": strategy,
        "kills": len(found),
        "p50_seconds": round(statistics.median(seconds), 4),
        "p95_seconds": round(quantile(seconds, 0.95), 4),
        "max_seconds": round(max(seconds), 4),
        "held_p50_seconds": round(statistics.median(held), 4),
        "held_p95_seconds": round(quantile(held, 0.95), 4),
        "lost_steps": sum(each.lost_steps for each in found),
        "identical": sum(each.identical for each in found),
        "moments": dict(sorted(moments.items())),
        "phases_p50": {
            name: round(statistics.median(each.phases.get(name, 0.0) for each in found), 4)
            for name in phases
        },
    }


def ratios(rows: Sequence[dict[str, Any]], peer: Sequence[Recovered]) -> dict[str, float]:
    """How many times as long the peer takes as the slowest strategy, also without its imports."""
    if not rows or not peer:
        return {}
    slowest = max(each["p50_seconds"] for each in rows)
    whole = statistics.median(each.seconds for each in peer)
    bare = statistics.median(each.seconds - each.phases[IMPORT] for each in peer)
    return {
        "torchrun_p50_seconds": round(whole, 4),
        "torchrun_p50_without_import": round(bare, 4),
        "ratio": round(whole / slowest, 2),
        "ratio_without_import": round(bare / slowest, 2),
    }


def show(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """One table with the outcome, and one with the phases."""
    table = Table("", "kills", "median", "p95", "worst", "lost steps", "same weights", "moments")
    phases = Table("median of", *dict.fromkeys(n for r in rows for n in r["phases_p50"]))
    for each in rows:
        spread = " ".join(f"{name} {number}" for name, number in each["moments"].items())
        times = [f"{each[key]:.2f} s" for key in ("p50_seconds", "p95_seconds", "max_seconds")]
        same = f"{each['identical']}/{each['kills']}" if "identical" in each else "-"
        table.add_row(
            each["strategy"], str(each["kills"]), *times, str(each["lost_steps"]), same, spread
        )
        names = [str(column.header) for column in phases.columns[1:]]
        found = each["phases_p50"]
        cells = [f"{found[name] * 1000:.0f} ms" if name in found else "" for name in names]
        phases.add_row(each["strategy"], *cells)
    console.print(table)
    console.print(phases)
