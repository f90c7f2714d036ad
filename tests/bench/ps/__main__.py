"""Parameter servers beside torch's RPC: `make bench-ps`.

Two servers and three workers on one machine train a dense model of 26 MB, and one with a table of
26 MB of which a step touches few rows, synchronously and asynchronously. Contestants take turns.
In synchronous mode all must arrive at the same loss: else they did not do the same work, and the
bench fails. Bytes are the kernel's count over all TCP connections, beside what has to travel:
gradients there and weights back, and with two copies the gradients once more. The last line is
JSON with medians and spreads.
"""

import argparse
import json
import math
import multiprocessing
import os
import socket
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import ours
import rpc
from workload import NUM_SERVERS, NUM_WORKERS, Config

LOSS_TOLERANCE = 1e-4
"""Relative: the contestants add in different orders."""
console = Console(width=110)
Run = Callable[[Any, Config], tuple[list[tuple[float, float]], int]]


def run_rpc(context: Any, config: Config) -> tuple[list[tuple[float, float]], int]:
    """The baseline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return rpc.run(context, config, port)


CONTESTANTS: dict[str, Run] = {
    "torch RPC": run_rpc,
    "Reknit, 1 copy": lambda context, config: ours.run(context, config, 1),
    "Reknit, 2 copies": lambda context, config: ours.run(context, config, 2),
}
PEERS = {"torch RPC": 2, "Reknit, 1 copy": 2, "Reknit, 2 copies": 3}
"""How often a step's parameters have to travel."""


def check_losses(config: Config, losses: dict[str, list[float]]) -> None:
    """Synchronous contestants have done the same work.

    Raises:
        SystemExit: they have not.
    """
    first, *others = losses.values()
    for other in others:
        for one, another in zip(first, other, strict=True):
            if config.synchronous and not math.isclose(one, another, rel_tol=LOSS_TOLERANCE):
                raise SystemExit(f"losses differ: {losses}")


def measure(context: Any, config: Config, rounds: int) -> dict[str, dict[str, Any]]:
    """Figures by contestant."""
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    wire: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        names = list(CONTESTANTS)
        shift = number % len(names)
        losses = {}
        for name in names[shift:] + names[:shift]:
            told, received = CONTESTANTS[name](context, config)
            rates[name].append(sum(rate for rate, _ in told))
            wire[name].append(received / config.steps / NUM_WORKERS)
            losses[name] = [loss for _, loss in told]
        check_losses(config, losses)
    return {
        name: {
            "samples_per_second": round(statistics.median(rates[name]), 1),
            "spread": [round(min(rates[name]), 1), round(max(rates[name]), 1)],
            "wire_bytes": round(statistics.median(wire[name])),
            "least_bytes": PEERS[name] * config.updated_bytes,
        }
        for name in CONTESTANTS
    }


def main() -> None:
    """Runs everything and prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "5")))
    parser.add_argument("--steps", type=int, default=int(os.environ.get("STEPS", "40")))
    arguments = parser.parse_args()
    # Torch's RPC warns of connections that the end of a run closes.
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ours", "rpc", "torch._dynamo"])
    titles = ("samples/s", "from", "to", "kB per step", "at least")
    table = Table("model", "mode", "contestant", *titles)
    rows = []
    for model, synchronous in product(("dense", "sparse"), (True, False)):
        config = Config(model=model, synchronous=synchronous, steps=arguments.steps)
        mode = "sync" if synchronous else "async"
        for name, found in measure(context, config, arguments.rounds).items():
            rows.append({"model": model, "mode": mode, "contestant": name, **found})
            cells = [found["samples_per_second"], *found["spread"]]
            sizes = [f"{found[key] / 1000:.0f}" for key in ("wire_bytes", "least_bytes")]
            table.add_row(model, mode, name, *(f"{cell:.1f}" for cell in cells), *sizes)
        console.print(f"{model} {mode} done")
    # TensorFlow is no dependency of this project; the table says that it has no row.
    has_tensorflow = find_spec("tensorflow") is not None
    words = "not measured" if has_tensorflow else "not installed"
    table.add_row("", "", "TensorFlow", words, "", "", "", "")
    console.print(table)
    result = {
        "bench": "ps",
        "rows": rows,
        "servers": NUM_SERVERS,
        "workers": NUM_WORKERS,
        "rounds": arguments.rounds,
        "tensorflow": has_tensorflow,
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "pyzmq", "reknit")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
