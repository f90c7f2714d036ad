import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from deaths import STEPS  # noqa: E402 - found through the path set above
from engine_cases import Case, Run, plain  # noqa: E402
from ranks import Rank, Ranks  # noqa: E402

from reknit.protocol.settings import (  # noqa: E402
    BatchSettings,
    CheckpointSettings,
    JobSettings,
    RecoverySettings,
)

MAX_RANKS = 4

RunRanks: TypeAlias = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have imported everything already."""
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reknit.strategies.zero", "reknit.rank.main", "torch._dynamo"])
    return context


class Workers:
    """Ranks that are started when first needed, and again when one has failed."""

    def __init__(self, context: multiprocessing.context.ForkServerContext) -> None:
        self._context = context
        self._running: dict[int, tuple[Any, Connection]] = {}

    def run(self, name: str, num_ranks: int, *arguments: object) -> list[Any]:
        """Calls a function of engine_cases on `num_ranks` ranks; the results by rank."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            for rank in range(num_ranks):
                hosted = listener if rank == 0 else None
                self._line(rank).send((name, rank, num_ranks, port, hosted, arguments))
            answers = self._answers(num_ranks)
        failed = [text for _, text in answers if text is not None]
        if failed:
            self.close()
            pytest.fail("\n".join(failed))
        return [result for result, _ in answers]

    def close(self) -> None:
        for process, line in self._running.values():
            process.kill()
            process.join()
            line.close()
        self._running.clear()

    def _answers(self, num_ranks: int) -> list[tuple[Any, str | None]]:
        answers = {}
        lines = {self._line(rank): rank for rank in range(num_ranks)}
        while len(answers) < num_ranks:
            waiting = [line for line, rank in lines.items() if rank not in answers]
            for line in multiprocessing.connection.wait(waiting):
                rank = lines[line]
                try:
                    answers[rank] = line.recv()
                except EOFError:
                    answers[rank] = (None, f"rank {rank} has died")
            if any(text is not None for _, text in answers.values()):
                # The others may wait for the failed one for ever.
                return list(answers.values())
        return [answers[rank] for rank in range(num_ranks)]

    def _line(self, rank: int) -> Connection:
        if rank not in self._running:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=runpy.run_path,
                args=(str(HERE / "worker.py"),),
                kwargs={"init_globals": {"connection": theirs}},
                daemon=True,
            )
            process.start()
            theirs.close()
            self._running[rank] = (process, ours)
        return self._running[rank][1]


@pytest.fixture(scope="session")
def workers(processes: multiprocessing.context.ForkServerContext) -> Iterator[Workers]:
    """Real processes with real collectives."""
    started = Workers(processes)
    yield started
    started.close()


@pytest.fixture(scope="session")
def run_ranks(workers: Workers) -> RunRanks:
    """run_ranks(name, num_ranks, *arguments): calls a function of engine_cases on the ranks."""
    return workers.run


@pytest.fixture(scope="session")
def plain_run() -> Callable[[Case], Run]:
    """The run of one plain process, computed once per case, with one thread like a rank."""
    known: dict[Case, Run] = {}
    num_threads = torch.get_num_threads()

    def run(case: Case) -> Run:
        if case not in known:
            torch.set_num_threads(1)
            known[case] = plain(case)
            torch.set_num_threads(num_threads)
        return known[case]

    return run


@pytest.fixture
def ranks(processes: multiprocessing.context.ForkServerContext) -> Iterator[Ranks]:
    """Rank processes with the test in the place of their agents."""
    started = Ranks(processes)
    yield started
    started.close()


@pytest.fixture
def start(ranks: Ranks) -> Callable[..., list[Rank]]:
    """start(settings, num_ranks, counter=1, environment=None): the ranks of a generation."""
    return ranks.start


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    return JobSettings(
        name="job",
        function="engine_tasks:train",
        batch=BatchSettings(global_batch=8, micro=2),
        recovery=RecoverySettings(heartbeat_seconds=0.05),
        checkpoint=CheckpointSettings(
            path=str(tmp_path / "checkpoints"), every_seconds=None, every_steps=3
        ),
    )


@pytest.fixture
def job(settings: JobSettings, tmp_path: Path) -> Callable[..., JobSettings]:
    """job(name, deaths, evaluate_every=None, every_steps=None, **changes): a job of its own folder.

    Without `every_steps` it writes a checkpoint at its end alone.
    """

    def make(
        name: str,
        *deaths: tuple[int, int, str],
        evaluate_every: int | None = None,
        every_steps: int | None = None,
        norm: str = "batch",
        hold_step: int | None = None,
        num_clients: int | None = None,
        **changes: Any,
    ) -> JobSettings:
        graves = tmp_path / f"{name}-graves"
        graves.mkdir()
        config = {
            "norm": norm,
            "hold_step": hold_step,
            "hold_until": str(tmp_path / "go on"),
            "steps": STEPS,
            "deaths": deaths,
            "graves": str(graves),
            "evaluate_every": evaluate_every,
            "num_clients": num_clients,
        }
        update = {
            "config": config,
            "checkpoint": CheckpointSettings(
                path=str(tmp_path / name), every_seconds=None, every_steps=every_steps
            ),
            "recovery": RecoverySettings(heartbeat_seconds=0.05, copies=1),
            **changes,
        }
        return settings.model_copy(update=update)

    return make
