"""A spare pod takes the place of a lost one: training goes on from memory, and nothing differs."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobruns import OWN_NURSERY, Cli, Run, session_processes, two_pods

TARGET_SECONDS = 2.0
"""From the end of the pod to the next completed step."""


def kill_pod(run: Run, name: str) -> float:
    """SIGKILL to every process of a pod; returns when, in seconds since the epoch."""
    log = run.run_dir / "logs" / f"{name}.log"
    found = [
        process.pid
        for process in session_processes(run.process.pid)
        if Path(f"/proc/{process.pid}/fd/1").readlink() == log
    ]
    assert len(found) >= 3, "the agent, its forkserver and a rank"
    now = time.time()
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return now


@pytest.mark.parametrize("sharding", [pytest.param("None", marks=pytest.mark.long), "ZeRO2"])
def test_a_spare_takes_the_place_of_a_lost_pod(
    cli: Cli,
    undisturbed: Callable[..., Run],
    tmp_path: Path,
    sharding: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate, end = tmp_path / "gate", tmp_path / "end"
    waits = {"wait_for": str(gate), "wait_step": 8, "wait_at_end": str(end)}
    run = cli.start(
        cli.manifest(**two_pods(sharding, **waits), spares={"replicas": 1}), **OWN_NURSERY
    )
    run.wait_for_step(8)
    run.wait_for_log("*-spare-0.log", "a parked process is warm")
    killed = kill_pod(run, "task-worker-1")
    gate.touch()
    run.wait_for_events("AgentJoined", 4)
    end.touch()
    assert run.finish() == 0, run.output + run.errors
    after = next(step for step in run.steps() if step["step"] == 9)
    seconds = after["time"] - killed
    with capsys.disabled():
        print(f"\n{sharding}: {seconds:.2f} s from the kill to the next completed step")
    [promoted] = run.events("SparePromoted")
    assert promoted["message"] == (
        "The spare task-spare-0 takes the place of worker 1 instead of task-worker-1."
    )
    assert run.events("Resumed")[-1]["detail"] == "memory"
    assert run.events("Resumed")[-1]["figures"]["redone_steps"] == 0
    assert len(run.events("GenerationBegun")) == 2
    assert run.losses() == undisturbed(**two_pods(sharding)).losses()
    assert run.weights() == undisturbed(**two_pods(sharding)).weights()
    assert seconds <= TARGET_SECONDS
    logs = {file.name for file in run.run_dir.glob("logs/task-[sw]*.log")}
    workers = {f"task-{name}.log" for name in ("worker-0", "worker-1")}
    spares = {f"task-{name}.log" for name in ("spare-0", "spare-0-1")}
    assert logs == workers | spares, "the spare was replaced, and no worker created in vain"
