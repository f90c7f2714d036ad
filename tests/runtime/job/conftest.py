"""Fixtures that start whole jobs."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobruns import Cli, Run, environment
from reknit.layout import Sharding
from reknit.protocol.settings import ENV_NURSERY, JobSettings
from reknit_operator.cli import dryrun
from reknit_operator.local.nursery import Nursery


@pytest.fixture(scope="session")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all manifests."""
    return tmp_path_factory.mktemp("manifests")


@pytest.fixture(scope="session")
def nursery(manifests: Path) -> Iterator[dict[str, str]]:
    """One warm process for the jobs of all tests, which import the same; variables that name it."""
    settings = JobSettings(name="task", function="tasks:train", sharding=Sharding.ZERO2)
    with Nursery() as nursery:
        nursery.start(dryrun.environment(settings, manifests, environment()))
        assert nursery.is_up(), nursery.log.read_text()
        yield {ENV_NURSERY: str(nursery.socket)}


@pytest.fixture
def cli(tmp_path: Path, manifests: Path, nursery: dict[str, str]) -> Iterator[Cli]:
    """The command line, whose jobs end with the test."""
    cli = Cli(tmp_path, manifests, nursery)
    yield cli
    for run in cli.runs:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGKILL)
        with run.process:
            pass


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, manifests: Path, nursery: dict[str, str]
) -> Callable[..., Run]:
    """A run of the small task to its end, the only one of its kind for all tests.

    Args of what it returns: the manifest's `spec`, as for `Cli.manifest`.
    """
    cli = Cli(tmp_path_factory.mktemp("undisturbed"), manifests, nursery)
    finished: dict[str, Run] = {}

    def run(**spec: Any) -> Run:
        kind = json.dumps(spec, sort_keys=True)
        if kind not in finished:
            finished[kind] = cli.run(cli.manifest(**spec))
        assert finished[kind].process.returncode == 0, finished[kind].output
        return finished[kind]

    return run


@pytest.fixture
def task(cli: Cli) -> Callable[..., Run]:
    """Runs the small task with this configuration to its end."""

    def run(*arguments: str, spec: dict[str, Any] | None = None, **config: Any) -> Run:
        entrypoint = {"function": "tasks:train", "config": config}
        return cli.run(cli.manifest(entrypoint=entrypoint, **(spec or {})), *arguments)

    return run
