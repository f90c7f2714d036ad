"""The two programs that are compared, each as a tree of processes that can be halted."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from turns import Progress, Turn
from workload import Config

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "gpt_bytes"
SHARDINGS = {"ddp": "None", "deepspeed": "ZeRO2"}
POLL = 0.05
PATIENCE = 300.0
"""Seconds without a step after which a program counts as hanging."""


@dataclass
class Contestant:
    """A program that trains, and tells of each step in a file of JSON lines.

    Args:
        command: starts it.
        told: the file.
        folder: its output goes there.
    """

    command: list[str]
    told: Path
    folder: Path
    turns: list[Turn] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(HERE), str(EXAMPLE)])
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()

    @property
    def has_ended(self) -> bool:
        """It runs no longer."""
        return self._running().poll() is not None

    def reach(self, step: int) -> None:
        """Waits until a step is complete.

        Raises:
            SystemExit: the program ended before, or makes no step.
        """
        deadline = time.monotonic() + PATIENCE
        while len(self._steps()) < step:
            if self.has_ended or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(self.command)}\n{self._output()}")
            time.sleep(POLL)

    def halt(self) -> None:
        """Stops all of its processes, those that watch others first."""
        self._send(self._processes(), signal.SIGSTOP)

    def take_turn(self, length: float) -> None:
        """Runs so many seconds, and is halted again."""
        begin = time.time()
        self._send(reversed(self._processes()), signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            self._running().wait(length)
        end = time.time()
        self.halt()
        self.turns.append((begin, end))

    def finish(self) -> None:
        """Runs to its end.

        Raises:
            SystemExit: the program failed; its output is shown.
        """
        self._send(reversed(self._processes()), signal.SIGCONT)
        if self._running().wait():
            raise SystemExit(f"{' '.join(self.command)}\n{self._output()}")

    def progress(self) -> Progress:
        """When it ran, and when its steps were complete."""
        return Progress(self.turns, [step["time"] for step in self._steps()])

    def loss(self) -> float:
        """Mean over the last global batch, once it has ended."""
        return float(self._steps()[-1]["metrics"]["loss"])

    def _steps(self) -> list[dict[str, Any]]:
        text = self.told.read_text() if self.told.exists() else ""
        records = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
        return [record for record in records if record["kind"] == "step"]

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._running().pid)
            return [root, *root.children(recursive=True)]
        return []

    @staticmethod
    def _send(processes: Any, number: signal.Signals) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")


def bare(strategy: str, config: Config, num_ranks: int, folder: Path) -> Contestant:
    """The bare script under torchrun."""
    told = folder / "steps.jsonl"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(HERE / "bare.py"), strategy, json.dumps(asdict(config)), str(told)]
    return Contestant([*launcher, f"--nproc-per-node={num_ranks}", *script], told, folder)


def reknit(strategy: str, config: Config, num_ranks: int, folder: Path) -> Contestant:
    """`reknit run`; its steps are those of its history."""
    manifest = {
        "apiVersion": "reknit.dev/v1alpha1",
        "kind": "DistributedTrainingJob",
        "metadata": {"name": f"overhead-{strategy}"},
        "spec": {
            "entrypoint": {"function": "workload:train", "config": asdict(config)},
            "parallelism": {"sharding": SHARDINGS[strategy]},
            "batch": {"global": config.global_batch, "micro": config.micro},
            "workers": {"replicas": 1, "processesPerReplica": num_ranks},
            "recovery": {"copies": 0},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.yaml"
    file.write_text(json.dumps(manifest))
    command = [str(Path(sys.executable).parent / "reknit"), "run", str(file)]
    run_dir = folder / "run"
    return Contestant([*command, "--run-dir", str(run_dir)], run_dir / "history.jsonl", folder)
