"""Whole jobs whose parameters lie on servers: what dies, and what the job is like afterwards."""

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jobruns import Cli, Run, session_processes
from reknit.data.ledger import committed

WORKERS = {"replicas": 2}
NUM_SAMPLES = 96
"""Of the task, which uses each in its 12 steps once."""
TASK = {"clip": None, "halve": True, "evaluate": True}


def served(**config: Any) -> dict[str, Any]:
    return {
        "entrypoint": {"function": "tasks:train", "config": TASK | config},
        "workers": WORKERS,
        "parameterServers": {"replicas": 2},
        "checkpoint": {"everySteps": 4},
    }


def kill_server(run: Run, role: str, number: int) -> None:
    """SIGKILL to the process that is the primary or backup of a range by the latest event."""
    name = servers_of(run)[number][role]
    os.kill(int(name.split(".")[1]), signal.SIGKILL)


def servers_of(run: Run) -> dict[int, dict[str, str]]:
    """The servers of each range, as the history tells."""
    [ready] = run.events("ServersReady")
    names = re.findall(r"task-server-[-.0-9a-f]+[0-9a-f]", ready["message"])
    ranges = {
        number: {"primary": name, "backup": names[(number + 1) % len(names)]}
        for number, name in enumerate(names)
    }
    for event in run.events("ServerChanged"):
        [(primary, number)] = re.findall(r"(\S+) serves range (\d)", event["message"]) or [("", -1)]
        if primary:
            ranges[int(number)]["primary"] = primary
        [(backup, number)] = re.findall(r"(\S+) is the backup of range (\d)", event["message"]) or [
            ("", -1)
        ]
        if backup:
            ranges[int(number)]["backup"] = backup
    return ranges


def kill_pod(run: Run, name: str) -> None:
    """SIGKILL to the agent of a pod, with which all its processes end."""
    for process in session_processes(run.process.pid):
        if "reknit.agent" not in process.command:
            continue
        environment = Path("/proc", str(process.pid), "environ").read_bytes()
        if f"REKNIT_POD_NAME={name}".encode() in environment.split(b"\0"):
            os.kill(process.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no agent of {name}")


@pytest.fixture
def plain(undisturbed: Callable[..., Run]) -> Run:
    """The run that nothing happens to."""
    return undisturbed(**served())


def test_whatever_dies_the_weights_are_those_of_the_undisturbed_run(
    cli: Cli, plain: Run, tmp_path: Path
) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    kill = {"fail_rank": 1, "fail_once": str(tmp_path / "killed"), "is_killed": True}
    manifest = cli.manifest(**served(wait_for=str(gate), wait_step=6, **kill))
    run = cli.start(manifest, REKNIT_LEDGER=str(ledger))
    run.wait_for_events("RankExited")
    run.wait_for_step(6)
    run.wait_for_events("RangesProtected")
    kill_server(run, "primary", 0)
    run.wait_for_events("RangesProtected", 2)
    kill_server(run, "backup", 1)
    run.wait_for_events("RangesProtected", 3)
    kill_pod(run, "task-server-1")
    run.wait_for_events("RangesProtected", 4)
    gate.touch()
    assert run.finish(timeout=300) == 0, run.output + run.errors
    assert run.losses() == plain.losses()
    assert run.weights() == plain.weights()
    assert run.events("RangeLost") == []
    samples = Counter(sample for used in committed(ledger).values() for sample in used)
    assert samples == Counter(range(NUM_SAMPLES))


def test_a_range_that_is_lost_with_both_copies_comes_from_the_newest_checkpoint(
    cli: Cli, plain: Run, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run = cli.start(cli.manifest(**served(wait_for=str(gate), wait_step=10)))
    run.wait_for_events("Checkpointed")
    run.wait_for_step(10)
    kill_server(run, "primary", 0)
    kill_server(run, "primary", 1)
    run.wait_for_events("RangeLost", 2)
    gate.touch()
    assert run.finish(timeout=300) == 0, run.output + run.errors
    # One that became durable in the last moment may not have been told of.
    resumed = run.events("Resumed")[-1]
    assert 4 <= resumed["step"] <= 10
    assert Path(resumed["detail"]).name.startswith(f"step-{resumed['step']:08d}.")
    assert run.losses() == plain.losses()
    assert run.weights() == plain.weights()


def test_servers_outlive_their_coordinator(cli: Cli, plain: Run, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = cli.start(cli.manifest(**served(wait_for=str(gate), wait_step=6)))
    run.wait_for_step(6)
    run.wait_for_events("RangesProtected")
    for process in session_processes(run.process.pid):
        if "reknit.coordinator" in process.command:
            os.kill(process.pid, signal.SIGKILL)
    run.wait_for_events("RangesProtected", 2)
    gate.touch()
    assert run.finish(timeout=300) == 0, run.output + run.errors
    assert len(run.events("GenerationAdopted")) == 1
    assert run.events("RangeLost") == []
    assert run.weights() == plain.weights()


def test_a_suspended_run_resumes_without_servers(cli: Cli, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = cli.start(cli.manifest(**served(wait_for=str(gate), wait_step=5)))
    first.wait_for_step(5)
    first.process.send_signal(signal.SIGINT)
    gate.touch()
    first.finish()
    assert [event["step"] for event in first.events("Checkpointed")][-1] > 4, first.output
    spec = served()
    del spec["parameterServers"]
    second = cli.run(cli.manifest(**spec), "--resume", run_dir=first.run_dir)
    assert second.process.returncode == 0, second.output + second.errors
    whole = cli.run(cli.manifest(**spec))
    assert sorted(second.losses()) == list(range(1, 13))
    for step, loss in whole.losses().items():
        assert second.losses()[step] == pytest.approx(loss, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_kills_at_any_moment_leave_no_trace(cli: Cli, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    spec = served(steps=1500, width=64, evaluate=False)
    spec["checkpoint"] = {"everySteps": 200}
    plain = cli.run(cli.manifest(**spec))
    steps = sorted(random.sample(range(50, 1200), 6))
    ranks = [f"{random.randrange(2)}@{step}" for step in steps[::3]]
    run = cli.start(cli.manifest(**spec), *(part for kill in ranks for part in ("--kill", kill)))
    for number, step in enumerate([*steps[1::3], *steps[2::3]]):
        run.wait_for_events("RangesProtected", number + 1)
        run.wait_for_step(step)
        kill_server(run, random.choice(["primary", "backup"]), random.randrange(2))
    assert run.finish(timeout=300) == 0, run.output + run.errors
    assert run.events("RangeLost") == []
    assert run.weights() == plain.weights()
