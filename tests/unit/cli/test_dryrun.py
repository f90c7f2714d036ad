"""The dry run's process as the command line starts it."""

from pathlib import Path

import pytest

from reknit.protocol.settings import ENV_JOB, BatchSettings, JobSettings
from reknit_operator.cli import dryrun
from reknit_operator.cli.refusal import Refusal


def settings(name: str) -> JobSettings:
    return JobSettings(
        name="job", function=name, batch=BatchSettings(global_batch=2, micro=1), config={"x": 1}
    )


def refused(folder: Path, name: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        dryrun.inspect_function(settings(name), folder)
    return caught.value


def test_the_module_beside_the_manifest_comes_first(tmp_path: Path) -> None:
    # A module of the standard library's name shows which folder was asked first.
    (tmp_path / "antigravity.py").write_text("def train(job): ...")
    refusal = refused(tmp_path, "antigravity:train")
    assert refusal.problems == (
        "spec.entrypoint.config: must be empty, as train takes no configuration",
    )
    assert (refusal.exit_code, refusal.traceback) == (2, None)


def test_a_process_that_dies_is_told_with_what_it_wrote(tmp_path: Path) -> None:
    source = "import os, sys\nprint('last words')\nsys.stdout.flush()\nos._exit(7)"
    (tmp_path / "dies_early.py").write_text(source)
    refusal = refused(tmp_path, "dies_early:train")
    assert refusal.problems == ("the dry run of dies_early:train ended with exit status 7",)
    assert refusal.traceback == "last words"
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
