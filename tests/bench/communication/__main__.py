"""Bytes and losses of training that communicates less: `make bench-communication`.

Every contestant trains the same model on the same number of samples, in as many steps of each rank.
Bytes are those that the kernel has sent for a rank, everything in it: reductions, gates, copies for
recovery. Evaluations come between and are left out. The last line is JSON with the same figures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "gpt_bytes"
sys.path[:0] = [str(HERE), str(EXAMPLE)]

from workload import Config  # noqa: E402 - found through the path set above

RANKS, MICRO = 4, 8
CURVE_POINTS = 4
console = Console(width=120)


@dataclass(frozen=True)
class Contestant:
    """A way to communicate."""

    name: str
    communication: dict[str, Any]

    @property
    def local_steps(self) -> int:
        """Steps of a rank in each step of the job."""
        return self.communication.get("rounds", {}).get("localSteps", 1)


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    bytes_per_local_step: float
    planned_bytes_per_local_step: float
    held_out: dict[int, float]
    """Loss by local steps done."""
    seconds: float

    @property
    def final(self) -> float:
        """The last held-out loss."""
        return list(self.held_out.values())[-1]


def contestants(long_round: int, short_round: int) -> list[Contestant]:
    """Everyone; the first one is what the others are held against."""
    diloco = {"learningRatePercent": 70, "momentumPercent": 90}
    fresh = {"workerState": "Fresh"}
    return [
        Contestant("uncompressed", {}),
        Contestant("FP16", {"compression": "FP16"}),
        Contestant("BF16", {"compression": "BF16"}),
        Contestant("PowerSGD, rank 4", {"compression": "PowerSGD"}),
        Contestant(
            f"DiLoCo, {long_round} steps, BF16",
            {"compression": "BF16", "rounds": {"localSteps": long_round, **diloco}},
        ),
        Contestant(
            f"DiLoCo, {short_round} steps, fresh optimizers, BF16",
            {"compression": "BF16", "rounds": {"localSteps": short_round, **diloco, **fresh}},
        ),
    ]


def run(contestant: Contestant, local_steps: int, evaluate_every: int) -> Outcome:
    """Trains through `reknit run`.

    Raises:
        SystemExit: the job failed; its output is shown.
    """
    each = contestant.local_steps
    config = Config(steps=local_steps // each, evaluate_every=max(1, evaluate_every // each))
    manifest = {
        "apiVersion": "reknit.dev/v1alpha1",
        "kind": "DistributedTrainingJob",
        "metadata": {"name": "communication"},
        "spec": {
            "entrypoint": {"function": "workload:train", "config": asdict(config)},
            "batch": {"global": RANKS * MICRO * each, "micro": MICRO},
            "communication": contestant.communication,
            "workers": {"replicas": 2, "processesPerReplica": RANKS // 2},
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.yaml"
        file.write_text(json.dumps(manifest))
        run_dir = Path(folder) / "run"
        command = [str(Path(sys.executable).parent / "reknit"), "run", str(file)]
        path = os.pathsep.join([str(HERE), str(EXAMPLE), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, "--run-dir", str(run_dir)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            console.print(done.stdout + done.stderr)
            raise SystemExit(f"{contestant.name} failed with exit status {done.returncode}")
        lines = (run_dir / "history.jsonl").read_text().splitlines()
    return outcome([json.loads(line) for line in lines], config, each)


def outcome(history: list[dict[str, Any]], config: Config, each: int) -> Outcome:
    """What a history comes to."""
    steps = {r["step"]: r for r in history if r["kind"] == "step"}
    evaluations = {
        r["step"]: r["figures"]["loss"]
        for r in history
        if r["kind"] == "event" and r["reason"] == "Evaluated"
    }
    if len(steps) != config.steps:
        raise SystemExit(f"expected {config.steps} steps in the history, found {len(steps)}")
    # The first step fills buffers besides.
    sent = [record["metrics"]["measured_bytes"] for step, record in steps.items() if step > 1]
    planned = steps[config.steps]["metrics"].get("sent_bytes", 0.0)
    return Outcome(
        bytes_per_local_step=sum(sent) / len(sent) / each,
        planned_bytes_per_local_step=planned / each,
        held_out={step * each: loss for step, loss in sorted(evaluations.items())},
        seconds=steps[config.steps]["time"] - steps[1]["time"],
    )


def main() -> None:
    """Runs everyone and prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000, help="of each rank")
    parser.add_argument("--long-round", type=int, default=200)
    parser.add_argument("--short-round", type=int, default=64)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of contestants")
    arguments = parser.parse_args()
    everyone = contestants(arguments.long_round, arguments.short_round)
    chosen = [everyone[index] for index in arguments.only or range(len(everyone))]
    evaluate_every = arguments.steps // CURVE_POINTS
    found = {}
    for contestant in chosen:
        found[contestant.name] = run(contestant, arguments.steps, evaluate_every)
        console.print(f"{contestant.name}: {found[contestant.name]}")
    plain = found[chosen[0].name]
    table = Table("communication", "bytes per rank and step", "fewer", "held-out losses", "last")
    result: dict[str, Any] = {"bench": "communication", "steps": arguments.steps, "contestants": {}}
    for name, one in found.items():
        ratio = plain.bytes_per_local_step / one.bytes_per_local_step
        difference = one.final / plain.final - 1
        table.add_row(
            name,
            f"{one.bytes_per_local_step:,.0f}",
            f"{ratio:.1f} x",
            "  ".join(f"{loss:.3f}" for loss in one.held_out.values()),
            f"{difference:+.2%}",
        )
        result["contestants"][name] = {
            **asdict(one),
            "times_fewer_bytes": round(ratio, 2),
            "loss_difference": round(difference, 4),
        }
    console.print(table)
    result.update(
        ranks=RANKS,
        cores=os.cpu_count(),
        versions={name: version(name) for name in ("torch", "reknit")},
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
