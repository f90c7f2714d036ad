import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from ps_job import Job  # noqa: E402 - found through the path set above


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have imported everything already."""
    os.environ.update(OMP_NUM_THREADS="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "reknit.parameter_server.binding",
            "reknit.parameter_server.client",
            "reknit.parameter_server.server",
            "torch._dynamo",
        ]
    )
    return context


@pytest.fixture
def job(
    processes: multiprocessing.context.ForkServerContext, tmp_path: Path
) -> Iterator[Callable[[str, int], Job]]:
    """job(mode, num_steps): servers and workers, running."""
    started: list[Job] = []

    def start(mode: str, num_steps: int) -> Job:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Job(processes, folder, mode, num_steps))
        return started[-1]

    yield start
    for each in started:
        each.close()
