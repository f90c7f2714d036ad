"""What is wrong from the start: one sentence, exit status 2, and nothing started."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobruns import Cli, Run


def function(name: str = "tasks:train", **config: Any) -> dict[str, Any]:
    return {"entrypoint": {"function": name, "config": config}}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"worker": {"replicas": 2}}, "workers"),
    "wrong type": ({"workers": {"replicas": "many"}}, "spec.workers.replicas"),
    "degrees": ({"parallelism": {"data": 3}}, "does not multiply to the world of 2 ranks"),
    "missing module": (function("nowhere:train"), "nowhere"),
    "missing function": (function("tasks:trian"), "train"),
    "wrong signature": (function("tasks:no_job"), "no_job"),
    "unknown config field": (function(step=3), "steps"),
    "mistyped config field": (function(steps="few"), "steps"),
    "unreadable data set": (function(data_file="/nonexistent/file"), "/nonexistent/file"),
    "ds_config": (
        {"parallelism": {"sharding": "ZeRO1"}, "deepspeed": {"config": {"train_batch_size": 7}}},
        "train_batch_size",
    ),
}


def logs(run_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in run_dir.glob("logs/*")}


def refused(run: Run, mention: str, before: dict[str, int] | None = None) -> None:
    """Args: the run, what its sentence names, and the logs that had been there before."""
    assert run.process.returncode == 2, run.output + run.errors
    sentences = [line for line in (run.output + run.errors).splitlines() if line.strip()]
    assert len(sentences) == 1, sentences
    assert mention in sentences[0]
    assert logs(run.run_dir) == (before or {})


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_job_is_refused_with_a_sentence(cli: Cli, case: str) -> None:
    spec, mention = CASES[case]
    refused(cli.run(cli.manifest(**spec)), mention)


def test_a_port_in_use_is_refused(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused(cli.run(cli.manifest(), "--metrics-port", str(port)), str(port))


def test_a_missing_manifest_is_refused(cli: Cli, tmp_path: Path) -> None:
    refused(cli.run(tmp_path / "nowhere.yaml"), "nowhere.yaml")


def test_a_checkpoint_of_another_model_is_refused(task: Callable[..., Run], cli: Cli) -> None:
    first = task()
    assert first.process.returncode == 0, first.output + first.errors
    before = logs(first.run_dir)
    other = cli.manifest(**function(width=9, steps=20))
    second = cli.run(other, "--resume", run_dir=first.run_dir)
    refused(second, "param/0.weight has shape (8, 8) there and (9, 8) here", before)
