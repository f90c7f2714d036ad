"""`reknit chaos` on a real job."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobruns import OWN_NURSERY, REKNIT, Cli, Run


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, manifests: Path, nursery: dict[str, str]
) -> Iterator[Run]:
    """A job without end, of which rank 1 was killed on demand."""
    cli = Cli(tmp_path_factory.mktemp("chaos"), manifests, nursery)
    entrypoint = {"function": "tasks:train", "config": {"steps": 1_000_000}}
    workers = {"replicas": 2, "processesPerReplica": 1}
    manifest = cli.manifest(entrypoint=entrypoint, workers=workers, checkpoint={"everySteps": 20})
    # Deeds are done to processes that bear the session's mark, which a shared nursery's lack.
    started = cli.start(manifest, "--kill", "1@3", **OWN_NURSERY)
    started.wait_for_events("RankExited")
    started.wait_for_step(5)
    yield started
    started.process.send_signal(signal.SIGINT)
    started.finish()


def chaos(run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(REKNIT), "chaos", str(run_dir), *arguments], stdout=subprocess.PIPE, text=True
    )


def test_a_disturbed_job_is_said_to_have_come_over_it(run: Run) -> None:
    before = len(run.events("RankExited"))
    actions = "kill-rank,kill-coordinator"
    options = ("--every", "1s", "--count", "3", "--seed", "1", "--actions", actions)
    process = chaos(run.run_dir, *options)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    deeds = re.findall(r"\] (kill-\w+): (?:rank (\d) in task-worker-\d, )?pid \d+\n", output)
    assert deeds == [("kill-rank", "1"), ("kill-rank", "0"), ("kill-coordinator", "")]
    assert len(re.findall(r"\]   a new step after [\d.]+ m?s\n", output)) == 3
    assert re.search(r"\nkill-rank +2 +[\d.]+ m?s +[\d.]+ m?s\n", output)
    assert re.search(r"\neffective training time ratio  0\.\d+ over \d", output)
    exited = [event["rank"] for event in run.events("RankExited")][before:]
    assert exited == [int(rank) for _, rank in deeds if rank]
    assert len(run.events("GenerationAdopted")) == 1


def test_a_rank_is_killed_on_demand(run: Run) -> None:
    [exited, *_] = run.events("RankExited")
    assert exited["rank"] == 1


def test_an_interrupt_lets_a_stopped_rank_go_on(run: Run) -> None:
    before = len(run.events("RankExited"))
    options = ("--every", "1s", "--actions", "stop-rank", "--resume-after", "1h")
    with chaos(run.run_dir, *options) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait() == 130
    assert re.search(r"\] stop-rank: rank \d in task-worker-\d, pid \d+\n", line)
    assert "\nstop-rank       1" in f"\n{rest}"
    # The job goes on: a step after those that it had made by now.
    run.wait_for_step(max(step["step"] for step in run.steps()) + 50)
    assert len(run.events("RankExited")) == before
