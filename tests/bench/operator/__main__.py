"""The operator against a real API server: `make bench-operator`.

There are no kubelets: only the operator, the API server and etcd take part. In pairs, a job of so
many pods is applied and a plain client creates the same pods; the ratio of their speeds is that of
the same run. Then jobs are added until there are 10,000 pods, for the operator's memory and for
what it writes while nothing happens. The last line is JSON with the medians.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]

from apiserver import api_server  # noqa: E402 - found through the path set above
from contestants import CONCURRENCY, Timed, by_job, by_plain_client  # noqa: E402
from figures import cpu_seconds, resident_mib, writes  # noqa: E402
from installation import USER, install  # noqa: E402
from kubeapi import Api  # noqa: E402
from operatorprocess import OperatorProcess  # noqa: E402

SETTLE_SECONDS = 40
"""Longer than the period in which the operator writes figures that always move."""
console = Console(width=100)


async def compare(api: Api, operator: OperatorProcess, pods: int, pairs: int) -> dict[str, float]:
    """Pairs of job and plain client, in turns which goes first; prints the table."""
    titles = ("operator pods/s", "plain pods/s", "ratio", "operator CPU s per 1000 pods")
    table = Table("pair", *titles)
    speeds, ratios, costs = [], [], []
    for pair in range(pairs):
        runs: dict[str, Timed] = {}
        for contestant in ("job", "plain") if pair % 2 == 0 else ("plain", "job"):
            namespace = f"{contestant}-{pair}"
            await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            before = cpu_seconds(operator.pid)
            run = by_job if contestant == "job" else by_plain_client
            runs[contestant] = await run(api, namespace, pods)
            if contestant == "job":
                costs.append((cpu_seconds(operator.pid) - before) / pods)
        speeds.append(runs["job"].pods_per_second)
        ratios.append(speeds[-1] / runs["plain"].pods_per_second)
        cells = [speeds[-1], runs["plain"].pods_per_second]
        table.add_row(
            str(pair + 1),
            *(f"{cell:.0f}" for cell in cells),
            f"{ratios[-1]:.2f}",
            f"{1000 * costs[-1]:.2f}",
        )
    console.print(table)
    return {
        "pods_per_second": round(statistics.median(speeds), 1),
        "ratio_to_plain_client": round(statistics.median(ratios), 3),
        "cpu_seconds_per_pod": round(statistics.median(costs), 5),
    }


async def crowd(api: Api, pods: int, jobs: int) -> None:
    """So many more jobs of so many pods each."""
    for number in range(jobs):
        namespace = f"crowd-{number}"
        await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        timed = await by_job(api, namespace, pods)
        console.print(f"job {number + 1} of {jobs} more: {timed.pods_per_second:.0f} pods/s")


async def bench(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All figures."""
    with api_server(folder, {USER: ()}) as server:
        admin = Api(server)
        operator = OperatorProcess(server, folder, ["--all-namespaces", "--log-level=WARNING"])
        try:
            await install(admin)
            await operator.start()
            await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": "warm-up"}})
            await by_job(admin, "warm-up", 50)
            result: dict[str, object] = {"bench": "operator", "pods": arguments.pods}
            result |= await compare(admin, operator, arguments.pods, arguments.pairs)
            await crowd(admin, arguments.pods, arguments.crowd // arguments.pods - arguments.pairs)
            await asyncio.sleep(SETTLE_SECONDS)
            before, cpu = await writes(admin), cpu_seconds(operator.pid)
            await asyncio.sleep(arguments.idle_seconds)
            result["idle_seconds"] = arguments.idle_seconds
            result["idle_writes"] = await writes(admin) - before
            busy = (cpu_seconds(operator.pid) - cpu) / arguments.idle_seconds
            result["idle_cpu_share"] = round(busy, 4)
            name = f"rss_mib_{arguments.crowd // 1000}k_pods"
            result[name] = round(resident_mib(operator.pid))
        finally:
            await operator.end()
            await admin.close()
    return result | {"concurrency": CONCURRENCY}


def main() -> None:
    """Runs everything and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--crowd", type=int, default=10_000, help="pods of all jobs at the end")
    parser.add_argument("--idle-seconds", type=int, default=180)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(bench(arguments, Path(folder)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
