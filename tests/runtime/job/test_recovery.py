"""Faults of whole jobs: what dies, and what the job is like afterwards."""

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import reknit
import reknit_operator
from jobruns import OWN_NURSERY, Cli, Run, session_processes, spec, two_pods, wait_for_end
from reknit.protocol.outcome import MAX_TERMINATION_BYTES


@pytest.mark.parametrize("sharding", [pytest.param("None", marks=pytest.mark.long), "ZeRO2"])
def test_a_killed_rank_leaves_no_trace_in_losses_and_weights(
    cli: Cli, undisturbed: Callable[..., Run], sharding: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    kill = {"fail_rank": 1, "fail_step": 7, "fail_once": str(tmp_path / "killed")}
    manifest = cli.manifest(
        **two_pods(sharding, wait_for=str(gate), wait_step=8, is_killed=True, **kill)
    )
    disturbed = cli.start(manifest)
    disturbed.wait_for_events("RankExited")
    gate.touch()
    assert disturbed.finish() == 0, disturbed.output
    assert disturbed.losses() == undisturbed(**two_pods(sharding)).losses()
    assert disturbed.weights() == undisturbed(**two_pods(sharding)).weights()
    logs = [file.read_text() for file in disturbed.run_dir.glob("logs/*-worker-*.log")]
    assert len(logs) == 2
    assert not any("processes are started cold" in log for log in logs)
    assert len(disturbed.events("GenerationBegun")) == 2
    assert [event["rank"] for event in disturbed.events("RankExited")] == [1]


def test_training_goes_on_without_operator_and_coordinator(
    cli: Cli, undisturbed: Callable[..., Run], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    manifest = cli.manifest(**two_pods("None", wait_for=str(gate), wait_step=6))
    run = cli.start(manifest)
    run.wait_for_step(6)
    for process in session_processes(run.process.pid):
        if "reknit.coordinator" in process.command or "local.operator" in process.command:
            os.kill(process.pid, signal.SIGKILL)
    gate.touch()
    assert run.finish() == 0, run.output + run.errors
    assert len(run.events("GenerationBegun")) == 1
    assert len(run.events("GenerationAdopted")) == 1
    assert [event["step"] for event in run.events("Concluded")] == [12]
    assert [record["step"] for record in run.steps()] == list(range(1, 13))
    assert all("loss" in record["metrics"] for record in run.steps())
    assert run.weights() == undisturbed(**two_pods("None")).weights()


def test_nothing_outlives_a_killed_run(cli: Cli, tmp_path: Path) -> None:
    """Of the run's own processes, and of those that the user's code has started."""
    config = {"helper": True, "wait_for": str(tmp_path / "never"), "wait_step": 2}
    run = cli.start(cli.manifest(**spec("None", **config)), **OWN_NURSERY)
    run.wait_for_log("*-worker-0.log", "a parked process is warm")
    processes = session_processes(run.process.pid)
    kinds = Counter(process.title for process in processes)
    assert kinds["nursery"] == kinds["forkserver"] == 1
    assert kinds["rank"] == 3, "two ranks, and a parked process"
    assert kinds["sleep"] == 2
    commands = " ".join(process.command for process in processes)
    for program in ("reknit.agent", "reknit.coordinator", "local.operator", "watchdog.py"):
        assert program in commands
    run.process.kill()
    wait_for_end(processes)


def test_an_interrupted_run_resumes_under_another_layout(
    cli: Cli, undisturbed: Callable[..., Run], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = cli.start(cli.manifest(**two_pods("None", wait_for=str(gate), wait_step=5)))
    first.wait_for_step(5)
    first.process.send_signal(signal.SIGINT)
    gate.touch()
    first.finish()
    assert len(first.events("Checkpointed")) >= 1, first.output
    second = cli.run(
        cli.manifest(**spec("ZeRO2"), workers={"replicas": 1, "processesPerReplica": 4}),
        "--resume",
        run_dir=first.run_dir,
    )
    assert second.process.returncode == 0, second.output + second.errors
    assert sorted(second.losses()) == list(range(1, 13))
    for step, loss in undisturbed(**two_pods("None")).losses().items():
        assert second.losses()[step] == pytest.approx(loss, rel=1e-4)


def assert_the_users_traceback_is_last(run: Run, *, depth: int) -> None:
    """Whole, with nothing of ours in it or after it."""
    assert run.process.returncode == 1
    shown, head, frames = (run.output + run.errors).rpartition("Traceback (most recent call last):")
    assert shown and head
    files = re.findall(r'^  File "(.+)", line \d+, in (\w+)$', frames, re.MULTILINE)
    own = [name for file, name in files if Path(file).name == "tasks.py"]
    assert own == ["train", *["forward"] * depth, "cause_trouble"]
    ours = [Path(package.__file__).parent for package in (reknit, reknit_operator)]
    assert not any(Path(file).is_relative_to(folder) for file, _ in files for folder in ours)
    assert frames.endswith("\ntasks.Trouble: the user's own mistake\n")
    assert "..." not in frames


def test_an_error_on_every_rank_ends_the_job_with_the_users_traceback_last(cli: Cli) -> None:
    """Of nested modules, which is longer than the last words of a pod can be."""
    run = cli.run(cli.manifest(**spec("None", fail_rank=-1, fail_depth=12)))
    assert_the_users_traceback_is_last(run, depth=13)
    assert len(run.errors) > MAX_TERMINATION_BYTES
    assert len(run.events("GenerationBegun")) == 1


def test_an_error_on_one_rank_ends_the_job_after_one_redo(cli: Cli) -> None:
    run = cli.run(cli.manifest(**spec("None", fail_rank=1)))
    assert_the_users_traceback_is_last(run, depth=1)
    assert len(run.events("GenerationBegun")) == 2
    # The step that failed was taken up twice, and no other one.
    assert [event["rank"] for event in run.events("RankExited")] == [1, 1]
    assert [event["step"] for event in run.events("Resumed")] == [0, 3]
    assert [record["step"] for record in run.steps()] == [1, 2, 3]


def test_an_error_that_does_not_repeat_is_survived(cli: Cli, tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    run = cli.run(cli.manifest(**spec("None", fail_rank=1, fail_once=once)))
    assert run.process.returncode == 0, run.output + run.errors
    assert sorted(run.losses()) == list(range(1, 13))


def test_processes_of_a_command_are_restarted_as_a_group(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "(here / f\"{attempt}-{os.environ['RANK']}\").write_text(os.environ['WORLD_SIZE'])\n"
        "sys.exit(attempt == '0' and os.environ['RANK'] == '1')\n"
    )
    run = cli.run(cli.manifest(entrypoint={"command": ["python", str(script)]}, batch=None))
    assert run.process.returncode == 0, run.output + run.errors
    assert {"1-0", "1-1"} <= {file.name for file in tmp_path.glob("?-?")}
    assert all(file.read_text() == "2" for file in tmp_path.glob("?-?"))


def test_training_goes_on_when_the_disk_is_full(cli: Cli, tmp_path: Path) -> None:
    room = str(tmp_path / "room")
    # The failure is told at the gate of a later step, of which there have to be enough.
    config = {"steps": 300, "full_until": room, "wait_for": room, "wait_step": 290}
    run = cli.start(cli.manifest(**spec("None", **config)))
    run.wait_for_events("CheckpointFailed")
    Path(room).touch()
    assert run.finish() == 0, run.output + run.errors
    assert run.events("CheckpointFailed")[0]["step"] == 4
    assert run.events("Checkpointed")[-1]["step"] == 300
    assert sorted(run.losses()) == list(range(1, 301))
    assert "CheckpointFailed" in run.output


def test_a_stop_without_its_checkpoint_says_so_in_its_last_words(cli: Cli, tmp_path: Path) -> None:
    never = str(tmp_path / "room")
    run = cli.start(cli.manifest(**spec("None", steps=100_000, full_until=never)))
    run.wait_for_step(2)
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130
    [end] = [event for event in run.events("GenerationEnded") if "have left" in event["message"]]
    lost = (
        f"the last checkpoint (step {end['step']}) could not be written, training will resume "
        "from the beginning: "
    )
    assert lost in end["message"]
    shown = " ".join(run.output.split())
    assert f"task was stopped, but {lost}" in shown
    [log] = [file.read_text() for file in run.run_dir.glob("logs/*-worker-*.log")]
    assert f"rank 1 has left: {lost}" in log


def agent_of(run: Run, pod: str) -> int:
    [agent] = [
        process.pid
        for process in session_processes(run.process.pid)
        if "reknit.agent" in process.command.split()
        and f"REKNIT_POD_NAME={pod}\0".encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
    ]
    return agent


def test_a_pod_whose_agent_is_heard_again_too_late_does_no_harm(
    cli: Cli, undisturbed: Callable[..., Run], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run = cli.start(cli.manifest(**two_pods("ZeRO2", wait_for=str(gate), wait_step=6)))
    run.wait_for_step(6)
    agent = agent_of(run, "task-worker-1")
    os.kill(agent, signal.SIGSTOP)
    run.wait_for_events("AgentLost")
    os.kill(agent, signal.SIGCONT)
    gate.touch()
    assert run.finish() == 0, run.output + run.errors
    assert len(run.events("GenerationBegun")) == 2
    assert [event["detail"] for event in run.events("Resumed")][1:] == ["memory"]
    assert run.losses() == undisturbed(**two_pods("ZeRO2")).losses()
    assert run.weights() == undisturbed(**two_pods("ZeRO2")).weights()


def test_a_smaller_world_goes_on_when_the_pod_of_half_of_it_is_gone(
    cli: Cli, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    content = spec("None", wait_for=str(gate), wait_step=6)
    content["recovery"] = {"onLoss": "Shrink"}
    content["workers"] = {"replicas": 2, "processesPerReplica": 1, "minReplicas": 1}
    # The replacement does not come up as long as the job runs.
    run = cli.start(cli.manifest(**content), REKNIT_HELD_POD="task-worker-1-1")
    run.wait_for_step(6)
    os.kill(agent_of(run, "task-worker-1"), signal.SIGKILL)
    gate.touch()
    run.wait_for_events("Concluded")
    os.kill(agent_of(run, "task-worker-1-1"), signal.SIGKILL)
    assert run.finish() == 0, run.output + run.errors
    assert [event["figures"]["ranks"] for event in run.events("GenerationBegun")] == [2, 1]
    [_, resumed] = run.events("Resumed")
    assert (resumed["detail"], resumed["figures"]["redone_steps"]) == ("memory", 0)
    assert sorted(run.losses()) == list(range(1, 13))
