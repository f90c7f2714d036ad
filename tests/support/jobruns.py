"""Whole jobs through the command line: the real operator, coordinator, agents and ranks."""

import hashlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reknit.protocol.settings import ENV_NURSERY

OWN_NURSERY = {ENV_NURSERY: ""}
"""For a job that shares no process with others."""
TASKS = Path(__file__).parents[1] / "runtime" / "job"
REKNIT = Path(sys.executable).parent / "reknit"


def environment() -> dict[str, str]:
    """Of `reknit run`, with the tests' tasks on the path, and warnings as errors."""
    path = os.pathsep.join(filter(None, (str(TASKS), os.environ.get("PYTHONPATH"))))
    # Pytest's variables change with every test, and a nursery serves no other environment than its
    # own.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return {**inherited, "PYTHONPATH": path, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}


def spec(sharding: str, **config: Any) -> dict[str, Any]:
    """Of a job that trains the small task, with this configuration."""
    return {
        "entrypoint": {"function": "tasks:train", "config": config},
        "parallelism": {"sharding": sharding},
        "checkpoint": {"everySteps": 4},
    }


def two_pods(sharding: str, **config: Any) -> dict[str, Any]:
    """The same, with its two ranks in a pod each."""
    return spec(sharding, **config) | {"workers": {"replicas": 2, "processesPerReplica": 1}}


@dataclass(frozen=True)
class Process:
    """A process of a run."""

    pid: int
    title: str
    """What its main thread is called: the program, or what it has taken for a name."""
    command: str
    pidfd: int


def session_processes(root: int) -> list[Process]:
    """All descendants of a process."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            command = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        title, _, rest = stat.partition("(")[2].rpartition(")")
        parents[int(folder.name)] = int(rest.split()[1])
        titles[int(folder.name)] = title
        commands[int(folder.name)] = command

    def is_descendant(pid: int) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    found = []
    for pid in parents:
        if pid != root and is_descendant(pid):
            try:
                found.append(Process(pid, titles[pid], commands[pid], os.pidfd_open(pid)))
            except ProcessLookupError:
                continue
    return found


def wait_for_end(processes: list[Process], timeout: float = 10) -> None:
    """Waits until every one has ended."""
    for process in processes:
        ended, _, _ = select.select([process.pidfd], [], [], timeout)
        assert ended, f"still running: {process.command}"
        os.close(process.pidfd)


@dataclass
class Run:
    """One `reknit run`, on its way or finished."""

    process: subprocess.Popen[str]
    run_dir: Path
    output: str = ""
    errors: str = ""

    @property
    def records(self) -> list[dict[str, Any]]:
        """The history so far."""
        file = self.run_dir / "history.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def events(self, reason: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [
            record
            for record in self.records
            if record["kind"] == "event" and record["reason"] == reason
        ]

    def steps(self) -> list[dict[str, Any]]:
        """The committed steps, redone ones too."""
        return [record for record in self.records if record["kind"] == "step"]

    def wait_for_step(self, step: int) -> None:
        """Waits until the history holds this step."""
        self._wait(lambda: any(record["step"] >= step for record in self.steps()))

    def wait_for_events(self, reason: str, number: int = 1) -> None:
        """Waits until the history holds so many events of one kind."""
        self._wait(lambda: len(self.events(reason)) >= number)

    def wait_for_log(self, file: str, words: str) -> None:
        """Waits until the log of a pod has these words."""
        logs = self.run_dir / "logs"
        self._wait(lambda: any(words in found.read_text() for found in logs.glob(file)))

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Polls until `condition` holds; fails when the command ends before."""
        ended = threading.Event()
        while not condition():
            assert self.process.poll() is None, f"the run ended: {self.finish()}\n{self.output}"
            ended.wait(0.05)

    def losses(self) -> dict[int, float]:
        """Loss of each committed step, of its last generation."""
        return {
            record["step"]: record["metrics"]["loss"]
            for record in self.records
            if record["kind"] == "step"
        }

    def weights(self) -> str:
        """A hash of the final weights."""
        [file] = self.run_dir.rglob("model.safetensors")
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def finish(self, timeout: float = 120) -> int:
        """Waits for the end; returns the exit status."""
        output, errors = self.process.communicate(timeout=timeout)
        self.output += output or ""
        self.errors += errors or ""
        return self.process.returncode


@dataclass
class Cli:
    """Starts `reknit` commands with the tests' tasks on the path."""

    folder: Path
    manifests: Path
    """Where manifests go; processes of a nursery can be used by jobs of the same folder alone."""
    variables: dict[str, str]
    """Of every job."""
    runs: list[Run] = field(default_factory=list)

    def manifest(self, **spec: Any) -> Path:
        """Writes a manifest: two ranks in one pod unless `spec` says otherwise."""
        content: dict[str, Any] = {
            "apiVersion": "reknit.dev/v1alpha1",
            "kind": "DistributedTrainingJob",
            "metadata": {"name": "task"},
            "spec": {
                "entrypoint": {"function": "tasks:train"},
                "batch": {"global": 8, "micro": 4},
                "workers": {"replicas": 1, "processesPerReplica": 2},
                **spec,
            },
        }
        file = self.manifests / f"job-{len(list(self.manifests.glob('job-*')))}.yaml"
        file.write_text(json.dumps(content))
        return file

    def start(
        self, manifest: Path, *arguments: str, run_dir: Path | None = None, **env: str
    ) -> Run:
        """Starts `reknit run`."""
        run_dir = run_dir or self.folder / f"run-{len(self.runs)}"
        command = [str(REKNIT), "run", str(manifest), "--run-dir", str(run_dir), *arguments]
        process = subprocess.Popen(
            command,
            env={**environment(), **self.variables, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        run = Run(process, run_dir)
        self.runs.append(run)
        return run

    def run(self, manifest: Path, *arguments: str, **options: Any) -> Run:
        """Runs `reknit run` to its end."""
        run = self.start(manifest, *arguments, **options)
        run.finish()
        return run
