"""How long ranks wait under each pipeline schedule, beside the formula: `make bench-pipeline`.

Four ranks, eight micro-batches, real processes and real messages (gloo). The stages wait instead of
computing, as four ranks share the machine's cores; everything else is what a training step does.
A schedule fails the bench if its bubble is more than five points off the formula.
"""

import argparse
import json
import multiprocessing
import os
import socket
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import stages
from reknit.layout import PipelineSchedule
from reknit.protocol.base import Endpoint

TOLERANCE = 0.05
LEAVE_SECONDS = 30
PER_RANK = {PipelineSchedule.INTERLEAVED: 2}
"""Stages of each rank, where it is not one."""
console = Console(width=100)


def measure(cases: list[stages.Measured]) -> list[float]:
    """The bubble of each case.

    Raises:
        SystemExit: a rank has failed.
    """
    context = multiprocessing.get_context("spawn")
    processes, lines = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(host="127.0.0.1", port=listener.getsockname()[1])
        for rank in range(cases[0].num_ranks):
            ours, theirs = context.Pipe(duplex=False)
            hosted = listener if rank == 0 else None
            process = context.Process(
                target=stages.run, args=(rank, hosted, endpoint, cases, theirs)
            )
            process.start()
            theirs.close()
            processes.append(process)
            lines.append(ours)
        try:
            return [stages.waited([line.recv() for line in lines]) for _ in cases]
        except EOFError:
            raise SystemExit("a rank has failed") from None
        finally:
            for process in processes:
                process.join(LEAVE_SECONDS)
                process.kill()
                process.join()


def main() -> None:
    """Measures the schedules and prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a rank's forward pass")
    arguments = parser.parse_args()
    cases = [
        stages.Measured(
            schedule=schedule,
            per_rank=PER_RANK.get(schedule, 1),
            num_ranks=arguments.ranks,
            num_micro_batches=arguments.micro_batches,
            seconds=arguments.seconds,
            steps=arguments.steps,
        )
        for schedule in PipelineSchedule
    ]
    table = Table("schedule", "stages per rank", "bubble by formula", "measured", "difference")
    found: dict[str, object] = {}
    worst = 0.0
    for case, measured in zip(cases, measure(cases), strict=True):
        worst = max(worst, abs(measured - case.formula))
        table.add_row(
            case.schedule,
            str(case.per_rank),
            f"{case.formula:.1%}",
            f"{measured:.1%}",
            f"{100 * (measured - case.formula):+.1f} points",
        )
        found[case.schedule] = {"bubble": round(measured, 4), "formula": round(case.formula, 4)}
    console.print(table)
    result = {
        "bench": "pipeline",
        **found,
        "ranks": arguments.ranks,
        "micro_batches": arguments.micro_batches,
        "largest_difference": round(worst, 4),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "reknit")},
    }
    print(json.dumps(result))
    if worst > TOLERANCE:
        raise SystemExit(f"a bubble is {100 * worst:.1f} points off the formula")


if __name__ == "__main__":
    main()
