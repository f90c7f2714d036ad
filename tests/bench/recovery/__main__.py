"""How long a job takes to come over the death of a rank: `make bench-recovery`.

For each strategy, a run that is left alone says what the weights of every version are. Then runs of
the same job lose ranks to SIGKILL at chosen moments of the step, until there were enough kills. The
time of a kill counts until every rank has completed the next step. All weights must be those of the
undisturbed run, and no committed step may be lost: else the exit status is 1.

The peer is plain DDP under torchrun, with a checkpoint every ten steps, under the same kills. The
last line is JSON.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from evidence import (
    Hashes,
    Recovered,
    differing,
    peer_recoveries,
    read_hashes,
    read_lines,
    recoveries,
)
from figures import ratios, row, show
from killer import WORLD_SIZE, Hit, Killer
from quota import MOMENTS, neglected
from runs import SHARDINGS, Run, reknit_command, started, torchrun_command
from workload import Config

KILLS_PER_RUN = 5
PEER = "torchrun"
console = Console(width=120)


def say(text: str) -> None:
    """A line of progress."""
    console.print(text, highlight=False, markup=False)


def history(run: Run) -> list[dict[str, Any]]:
    """The records of a run through Reknit."""
    lines = (run.run_dir / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def undisturbed(folder: Path, strategy: str, config: Config) -> Hashes:
    """The weights of every version of a run that is left alone.

    Raises:
        SystemExit: they were not noted.
    """
    with started(reknit_command(folder, strategy, config), folder) as run:
        run.check()
    times = [record["time"] for record in history(run) if record["kind"] == "step"]
    step = statistics.median(b - a for a, b in pairwise(times))
    say(f"{strategy}: {config.steps} steps undisturbed, {step:.3f} s each")
    hashes = read_hashes(run.hashes)
    if len(hashes) != config.steps * WORLD_SIZE or any(len(each) != 1 for each in hashes.values()):
        raise SystemExit(f"{strategy}: the undisturbed run noted {len(hashes)} weights")
    return hashes


def disturbed(
    killer: Killer, command: list[str], folder: Path, config: Config
) -> tuple[Run, list[Hit]]:
    """A run to its end, and the kills in it."""
    with started(command, folder) as run:
        hits = killer.disturb(
            run.board,
            run.marks,
            steps=config.steps,
            at_most=KILLS_PER_RUN,
            is_over=run.is_over,
        )
        run.check()
    return run, hits


def measure(strategy: str, kills: int, config: Config, rng: random.Random) -> list[Recovered]:
    """Kills ranks of `reknit run` so many times."""
    found: list[Recovered] = []
    with tempfile.TemporaryDirectory() as name:
        reference = undisturbed(Path(name), strategy, config)
    killer = Killer(MOMENTS[strategy], kills, rng, lambda text: say(f"{strategy}: {text}"))
    while killer.left:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run, hits = disturbed(killer, reknit_command(folder, strategy, config), folder, config)
            wrong = differing(read_hashes(run.hashes), reference, config.steps)
            found += recoveries(hits, history(run), wrong)
            say(
                f"{strategy}: {len(found)} of {kills} kills; "
                + (f"weights differ at versions {wrong}" if wrong else "all weights are the same")
            )
            if wrong and not hits:
                raise SystemExit(f"{strategy}: weights differ without any kill")
    for moment in neglected(MOMENTS[strategy], killer.hit):
        say(f"{strategy}: few kills in {moment.name.lower()}: {killer.hit[moment]}")
    return found


def measure_peer(kills: int, config: Config, rng: random.Random) -> list[Recovered]:
    """Kills ranks under torchrun so many times."""
    found: list[Recovered] = []
    killer = Killer(MOMENTS[PEER], kills, rng, lambda text: say(f"{PEER}: {text}"))
    while killer.left:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = torchrun_command(folder, config, WORLD_SIZE)
            _, hits = disturbed(killer, command, folder, config)
            found += peer_recoveries(hits, list(read_lines(folder)))
            say(f"{PEER}: {len(found)} of {kills} kills")
    return found


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What must not be, in sentences."""
    found = []
    for each in rows:
        if each["lost_steps"]:
            found.append(f"{each['strategy']}: {each['lost_steps']} committed steps were lost")
        if each["identical"] != each["kills"]:
            differ = each["kills"] - each["identical"]
            found.append(f"{each['strategy']}: weights differ after {differ} kills")
    return found


def main() -> int:
    """Runs everything; returns the exit status."""
    environ = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=int(environ("KILLS", "100")))
    parser.add_argument("--peer-kills", type=int, default=environ("PEER_KILLS"))
    parser.add_argument("--strategies", default=environ("STRATEGIES", ",".join(SHARDINGS)))
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    strategies = arguments.strategies.replace(",", " ").split()
    if unknown := [each for each in strategies if each not in SHARDINGS]:
        parser.error(f"no strategy {', '.join(unknown)}; there are {', '.join(SHARDINGS)}")
    peer_kills = min(arguments.kills, 10)
    if arguments.peer_kills is not None:
        peer_kills = int(arguments.peer_kills)
    # So that the blocks that end what was started are left in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    config, rng = Config(steps=arguments.steps), random.Random(arguments.seed)
    rows = [row(each, measure(each, arguments.kills, config, rng)) for each in strategies]
    peer = measure_peer(peer_kills, config, rng) if peer_kills else []
    peer_rows = [row(PEER, peer)] if peer else []
    for each in peer_rows:
        del each["identical"]
    show(console, [*rows, *peer_rows])
    wrong = failures(rows)
    for sentence in wrong:
        say(sentence)
    result: dict[str, Any] = {"bench": "recovery", "rows": rows, **ratios(rows, peer)}
    result["torchrun"] = peer_rows[0] if peer_rows else None
    result["cores"] = os.cpu_count()
    result["versions"] = {name: version(name) for name in ("torch", "deepspeed", "reknit")}
    print(json.dumps(result))
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
