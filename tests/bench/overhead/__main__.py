"""Throughput of training through Reknit beside bare scripts: `make bench-overhead`.

Each pair runs the bare script and Reknit one after the other, in turns which goes first, with the
same model, batches and collectives (gloo). A run's throughput is that of its steps after the
warm-up. Both must arrive at the same loss: else they did not do the same work, and the bench fails.
The last line is JSON with the median ratio over the pairs.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "gpt_bytes"
sys.path[:0] = [str(HERE), str(EXAMPLE)]

from workload import Config  # noqa: E402 - found through the path set above

WARM_UP = 15
LOSS_TOLERANCE = 1e-3
"""Relative, at the last step: the contestants add in different orders."""
SHARDINGS = {"ddp": "None", "deepspeed": "ZeRO2"}
console = Console(width=100)


@dataclass(frozen=True)
class Timed:
    """A contestant's run."""

    samples_per_second: float
    """Between the end of the warm-up and the last step."""
    loss: float
    """Mean over the last global batch."""


def timed(done: list[float], loss: float, config: Config) -> Timed:
    """What follows from the times at which the steps were complete."""
    seconds = done[-1] - done[WARM_UP - 1]
    return Timed((len(done) - WARM_UP) * config.global_batch / seconds, loss)


def run(command: list[str]) -> str:
    """The command's output.

    Raises:
        SystemExit: the command failed; its output is shown.
    """
    path = os.pathsep.join([str(HERE), str(EXAMPLE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        console.print(done.stdout + done.stderr)
        raise SystemExit(f"{command[0]} failed with exit status {done.returncode}")
    return done.stdout


def run_bare(strategy: str, config: Config, num_ranks: int) -> Timed:
    """The bare script under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(HERE / "bare.py"), strategy, json.dumps(asdict(config))]
    output = run([*launcher, f"--nproc-per-node={num_ranks}", *script])
    told = json.loads(output.strip().splitlines()[-1])
    return timed(told["done"], told["loss"], config)


def run_reknit(strategy: str, config: Config, num_ranks: int) -> Timed:
    """`reknit run`, with the times of its history."""
    manifest = {
        "apiVersion": "reknit.dev/v1alpha1",
        "kind": "DistributedTrainingJob",
        "metadata": {"name": f"overhead-{strategy}"},
        "spec": {
            "entrypoint": {"function": "workload:train", "config": asdict(config)},
            "parallelism": {"sharding": SHARDINGS[strategy]},
            "batch": {"global": config.global_batch, "micro": config.micro},
            "workers": {"replicas": 1, "processesPerReplica": num_ranks},
            "recovery": {"copies": 0},
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.yaml"
        file.write_text(json.dumps(manifest))
        run_dir = Path(folder) / "run"
        run(
            [
                str(Path(sys.executable).parent / "reknit"),
                "run",
                str(file),
                "--run-dir",
                str(run_dir),
            ]
        )
        lines = (run_dir / "history.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    if len(steps) != config.steps:
        raise SystemExit(f"expected {config.steps} steps in the history, found {len(steps)}")
    return timed([step["time"] for step in steps], steps[-1]["metrics"]["loss"], config)


def main() -> None:
    """Runs the pairs and prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=int(os.environ.get("PAIRS", "5")))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=Config.steps)
    arguments = parser.parse_args()
    config = Config(steps=arguments.steps)
    titles = ("bare samples/s", "Reknit samples/s", "ratio", "bare loss", "Reknit loss")
    table = Table("strategy", "pair", *titles)
    result: dict[str, object] = {"bench": "overhead"}
    # A machine that has been idle is faster for a while: the first run does not count.
    run_bare("ddp", config, arguments.ranks)
    for strategy in SHARDINGS:
        ratios = []
        for pair in range(arguments.pairs):
            contestants = [run_bare, run_reknit]
            order = contestants if pair % 2 == 0 else contestants[::-1]
            runs = {run: run(strategy, config, arguments.ranks) for run in order}
            bare, ours = runs[run_bare], runs[run_reknit]
            if not math.isclose(bare.loss, ours.loss, rel_tol=LOSS_TOLERANCE):
                raise SystemExit(f"{strategy}: bare loss {bare.loss}, Reknit's {ours.loss}")
            ratios.append(ours.samples_per_second / bare.samples_per_second)
            cells = [bare.samples_per_second, ours.samples_per_second]
            table.add_row(
                strategy,
                str(pair + 1),
                *(f"{cell:.1f}" for cell in cells),
                f"{ratios[-1]:.3f}",
                f"{bare.loss:.5f}",
                f"{ours.loss:.5f}",
            )
            console.print(f"{strategy} pair {pair + 1}: ratio {ratios[-1]:.3f}")
        result[f"{strategy}_ratio"] = round(statistics.median(ratios), 4)
        result[f"{strategy}_spread"] = [round(min(ratios), 4), round(max(ratios), 4)]
    console.print(table)
    result.update(
        pairs=arguments.pairs,
        ranks=arguments.ranks,
        cores=os.cpu_count(),
        versions={name: version(name) for name in ("torch", "deepspeed", "reknit")},
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
