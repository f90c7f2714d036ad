"""The dry run's process as the command line starts it."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import ENV_JOB, BatchSettings, JobSettings
from reknit_operator.cli import dryrun
from reknit_operator.cli.refusal import Refusal
from reknit_operator.local.nursery import Nursery


def settings(name: str) -> JobSettings:
    return JobSettings(
        name="job", function=name, batch=BatchSettings(global_batch=2, micro=1), config={"x": 1}
    )


Inspect: TypeAlias = Callable[[JobSettings, Path], Inspection]


@pytest.fixture(params=["cold", "warm"])
def inspect(request: pytest.FixtureRequest) -> Iterator[Inspect]:
    """The dry run in a process of its own, and in a nursery's fork."""
    if request.param == "cold":
        yield dryrun.inspect_function
        return
    with Nursery() as nursery:
        yield partial(dryrun.inspect_warm, nursery=nursery)


def refused(inspect: Inspect, folder: Path, name: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        inspect(settings(name), folder)
    return caught.value


def test_the_module_beside_the_manifest_comes_first(inspect: Inspect, tmp_path: Path) -> None:
    # A module of the standard library's name shows which folder was asked first.
    (tmp_path / "antigravity.py").write_text("def train(job): ...")
    refusal = refused(inspect, tmp_path, "antigravity:train")
    assert refusal.problems == (
        "spec.entrypoint.config: must be empty, as train takes no configuration",
    )
    assert (refusal.exit_code, refusal.traceback) == (2, None)


def test_a_process_that_dies_is_told_with_what_it_wrote(inspect: Inspect, tmp_path: Path) -> None:
    source = "import os, sys\nprint('last words')\nsys.stdout.flush()\nos._exit(7)"
    (tmp_path / "dies_early.py").write_text(source)
    refusal = refused(inspect, tmp_path, "dies_early:train")
    assert refusal.problems == ("the dry run of dies_early:train ended with exit status 7",)
    assert (refusal.output, refusal.traceback) == ("last words", None)
    assert refusal.exit_code == 1


def test_a_module_that_cannot_be_imported_is_told_with_its_traceback(
    inspect: Inspect, tmp_path: Path
) -> None:
    (tmp_path / "half_imported.py").write_text("import os\nraise LookupError('half way')")
    refusal = refused(inspect, tmp_path, "half_imported:train")
    assert refusal.traceback is not None
    assert refusal.traceback.splitlines()[-1] == "LookupError: half way"
    assert refusal.exit_code == 1


def test_the_environment_is_that_of_a_rank(tmp_path: Path) -> None:
    job = settings("m:f")
    found = dryrun.environment(job, tmp_path, {"PYTHONPATH": "/there", "HOME": "/home"})
    assert found["PYTHONPATH"] == f"{tmp_path}:/there"
    assert found["HOME"] == "/home"
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == "1"
    assert JobSettings.model_validate_json(found[ENV_JOB]) == job
    assert dryrun.environment(job, tmp_path, {"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"


def test_endings_in_words() -> None:
    assert dryrun.ending(-9) == "signal 9"
    assert dryrun.ending(3) == "exit status 3"
