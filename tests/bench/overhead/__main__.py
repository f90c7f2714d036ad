"""Throughput of training through Reknit beside bare scripts: `make bench-overhead`.

Each pair is one run of the bare script and one of Reknit, with the same model, batches and
collectives (gloo). After the warm-up they take turns of a few seconds, in which all processes of
the other are halted, as the speed of a machine changes. Both must arrive at the same loss: else
they did not do the same work, and the bench fails. The last line is JSON with the median ratio of
throughputs over the pairs.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "examples" / "gpt_bytes")]

from contestants import SHARDINGS, bare, reknit  # noqa: E402 - found through the path set above
from turns import steps_per_second  # noqa: E402
from workload import Config  # noqa: E402

WARM_UP = 12
"""Steps that are not measured."""
LOSS_TOLERANCE = 1e-3
"""Relative, at the last step: the contestants add in different orders."""
console = Console(width=100)


@dataclass(frozen=True)
class Pair:
    """What came out of one run of each."""

    bare_speed: float
    """Samples per second."""
    reknit_speed: float
    bare_loss: float
    """Mean over the last global batch."""
    reknit_loss: float

    @property
    def ratio(self) -> float:
        """Reknit's throughput beside the bare script's."""
        return self.reknit_speed / self.bare_speed


def run_pair(
    strategy: str, config: Config, num_ranks: int, turn: float, *, is_bare_first: bool
) -> Pair:
    """One run of each.

    Args:
        turn: its length, seconds.

    Raises:
        SystemExit: one of them failed.
    """
    with tempfile.TemporaryDirectory() as name:
        theirs = bare(strategy, config, num_ranks, Path(name, "bare"))
        ours = reknit(strategy, config, num_ranks, Path(name, "reknit"))
        contestants = [theirs, ours] if is_bare_first else [ours, theirs]
        with ExitStack() as running:
            for contestant in contestants:
                running.enter_context(contestant)
                contestant.reach(WARM_UP)
                contestant.halt()
            while not any(contestant.has_ended for contestant in contestants):
                for contestant in contestants:
                    contestant.take_turn(turn)
            for contestant in contestants:
                contestant.finish()
        speeds = steps_per_second(theirs.progress(), ours.progress())
        bare_speed, reknit_speed = (speed * config.global_batch for speed in speeds)
        return Pair(bare_speed, reknit_speed, theirs.loss(), ours.loss())


def main() -> None:
    """Runs the pairs and prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=int(os.environ.get("PAIRS", "5")))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--turn", type=float, default=3.0, help="seconds (default: 3)")
    arguments = parser.parse_args()
    config = Config(steps=arguments.steps)
    titles = ("bare samples/s", "Reknit samples/s", "ratio", "bare loss", "Reknit loss")
    table = Table("strategy", "pair", *titles)
    result: dict[str, object] = {"bench": "overhead"}
    for strategy in SHARDINGS:
        ratios = []
        for number in range(arguments.pairs):
            pair = run_pair(
                strategy, config, arguments.ranks, arguments.turn, is_bare_first=number % 2 == 0
            )
            if not math.isclose(pair.bare_loss, pair.reknit_loss, rel_tol=LOSS_TOLERANCE):
                raise SystemExit(
                    f"{strategy}: bare loss {pair.bare_loss}, Reknit's {pair.reknit_loss}"
                )
            ratios.append(pair.ratio)
            table.add_row(
                strategy,
                str(number + 1),
                f"{pair.bare_speed:.1f}",
                f"{pair.reknit_speed:.1f}",
                f"{pair.ratio:.3f}",
                f"{pair.bare_loss:.5f}",
                f"{pair.reknit_loss:.5f}",
            )
            console.print(f"{strategy} pair {number + 1}: ratio {pair.ratio:.3f}")
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
