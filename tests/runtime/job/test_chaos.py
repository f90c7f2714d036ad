"""`reknit chaos` on a real job."""

import re
import signal
import subprocess
from pathlib import Path

from jobruns import OWN_NURSERY, REKNIT, Cli, Run


def start_job(cli: Cli) -> Run:
    entrypoint = {"function": "tasks:train", "config": {"steps": 1_000_000}}
    workers = {"replicas": 2, "processesPerReplica": 1}
    manifest = cli.manifest(entrypoint=entrypoint, workers=workers, checkpoint={"everySteps": 20})
    # Deeds are done to processes that bear the session's mark, which a shared nursery's lack.
    run = cli.start(manifest, **OWN_NURSERY)
    run.wait_for_step(5)
    return run


def chaos(run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(REKNIT), "chaos", str(run_dir), *arguments], stdout=subprocess.PIPE, text=True
    )


def test_a_disturbed_job_is_said_to_have_come_over_it(cli: Cli) -> None:
    run = start_job(cli)
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
    exited = [event["rank"] for event in run.events("RankExited")]
    assert exited == [int(rank) for _, rank in deeds if rank]
    assert len(run.events("GenerationAdopted")) == 1
    run.process.send_signal(signal.SIGINT)
    run.finish()


def test_an_interrupt_lets_a_stopped_rank_go_on(cli: Cli) -> None:
    run = start_job(cli)
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
    assert not run.events("RankExited")
    run.process.send_signal(signal.SIGINT)
    run.finish()
