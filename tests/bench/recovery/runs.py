"""Starting jobs, and having nothing of them left afterwards."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import reknit_operator.local
from reknit.protocol.settings import ENV_BOARD, ENV_HASHES
from reknit_operator.local.sweep import sweep
from workload import Config

HERE = Path(__file__).parent
SHARDINGS = {
    "ddp": "None",
    "zero1": "ZeRO1",
    "zero2": "ZeRO2",
    "zero3": "ZeRO3",
    "fsdp": "FSDP",
}
_MARK = "REKNIT_BENCH"
"""In the environment of every process of a run, however deep it was started."""
_SHIM = Path(reknit_operator.local.__file__).with_name("shim.py")


class RunError(Exception):
    """A run did not end as it should."""


@dataclass(frozen=True)
class Run:
    """A job on its way."""

    process: subprocess.Popen[bytes]
    folder: Path
    marks: Mapping[str, str]

    @property
    def board(self) -> Path:
        """Where its ranks show what they do."""
        return self.folder / "board"

    @property
    def hashes(self) -> Path:
        """Where its ranks note their weights."""
        return self.folder / "hashes"

    @property
    def run_dir(self) -> Path:
        """The folder of `reknit run`."""
        return self.folder / "run"

    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def check(self) -> None:
        """Waits for the end.

        Raises:
            RunError: it has failed; with the last of its output.
        """
        if self.process.wait():
            output = (self.folder / "output").read_text(errors="replace")
            raise RunError(f"exit status {self.process.returncode}\n{output[-4000:]}")


def reknit_command(folder: Path, strategy: str, config: Config) -> list[str]:
    """`reknit run` with four ranks in two pods, without checkpoints."""
    manifest: dict[str, Any] = {
        "apiVersion": "reknit.dev/v1alpha1",
        "kind": "DistributedTrainingJob",
        "metadata": {"name": f"recovery-{strategy}"},
        "spec": {
            "entrypoint": {"function": "workload:train", "config": asdict(config)},
            "parallelism": {"sharding": SHARDINGS[strategy]},
            "batch": {"global": config.global_batch, "micro": config.micro},
            "workers": {"replicas": 2, "processesPerReplica": 2},
            "recovery": {"copies": 0 if strategy == "ddp" else 1},
        },
    }
    file = folder / "job.yaml"
    file.write_text(json.dumps(manifest))
    reknit = str(Path(sys.executable).parent / "reknit")
    return [reknit, "run", str(file), "--run-dir", str(folder / "run")]


def torchrun_command(folder: Path, config: Config, num_ranks: int) -> list[str]:
    """The peer's script under torchrun, which restarts all ranks when one dies."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={num_ranks}", "--max-restarts=100"]
    return [*launcher, str(HERE / "peer.py"), str(folder), json.dumps(asdict(config))]


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[Run]:
    """Runs a command; whatever is left of it afterwards is killed.

    In a session of its own, so Ctrl-C reaches this process alone, and under a shim that has it
    killed when this process dies.
    """
    marks = {_MARK: uuid.uuid4().hex}
    environment = {
        **os.environ,
        **marks,
        ENV_BOARD: str(folder / "board"),
        ENV_HASHES: str(folder / "hashes"),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).strip(":"),
        "OMP_NUM_THREADS": "1",
        # Else torchrun's agent shares its store with the ranks, and a restart cannot bind it again.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid())]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*shim, *command],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Run(process, folder, marks)
    finally:
        process.kill()
        process.wait()
        sweep(marks)
