"""Folders of runs, faults on demand."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reknit.protocol.inspection import Inspection
from reknit.protocol.status import Record, StepRecord
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli import rundir
from reknit_operator.cli.kills import Kill, parse, split
from reknit_operator.cli.manifests import local_settings
from reknit_operator.cli.refusal import Refusal
from reknit_operator.cli.report.build import read_facts
from reknit_operator.planning.plan import make_plan


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / rundir.HISTORY).touch()
    return folder


def test_runs_are_numbered(tmp_path: Path) -> None:
    assert rundir.choose("tiny", None, resume=False, runs=tmp_path) == tmp_path / "tiny-1"
    for name in ("tiny-1", "tiny-9", "tiny-x", "tiny-2-more", "other-70"):
        make_run(tmp_path / name)
    assert rundir.choose("tiny", None, resume=False, runs=tmp_path) == tmp_path / "tiny-10"
    assert rundir.choose("tiny", None, resume=True, runs=tmp_path) == tmp_path / "tiny-9"


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="there is no run of tiny"):
        rundir.choose("tiny", None, resume=True, runs=tmp_path)
    with pytest.raises(Refusal, match="there is no run in"):
        rundir.choose("tiny", tmp_path, resume=True)


def test_a_given_folder_with_a_run_is_only_resumed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    with pytest.raises(Refusal, match="add --resume"):
        rundir.choose("tiny", run, resume=False)
    assert rundir.choose("tiny", run, resume=True) == run
    assert rundir.choose("tiny", tmp_path / "fresh", resume=False) == tmp_path / "fresh"
    (tmp_path / "only" / "checkpoints").mkdir(parents=True)
    assert rundir.choose("tiny", tmp_path / "only", resume=True) == tmp_path / "only"


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny-1"
    assert not rundir.is_claimed(run)
    with rundir.claimed(run):
        assert rundir.is_claimed(run)
        with pytest.raises(Refusal, match="another job runs in"), rundir.claimed(run):
            pass
    assert not rundir.is_claimed(run)
    assert run.exists()


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from reknit_operator.cli import rundir\n"
        "with rundir.claimed(Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run").exists()
    assert not rundir.is_claimed(tmp_path / "run")


def test_a_folder_made_for_nothing_goes_away(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), rundir.claimed(tmp_path / "new"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    with pytest.raises(RuntimeError), rundir.claimed(tmp_path / "used"):
        (tmp_path / "used" / "log").touch()
        raise RuntimeError
    assert (tmp_path / "used" / "log").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="cannot be written"), rundir.claimed(tmp_path / "file" / "x"):
        pass


def test_a_history_is_read_as_it_grows(
    tmp_path: Path, make_step: Callable[..., StepRecord]
) -> None:
    tail = rundir.HistoryTail(tmp_path)
    assert tail.fresh() == []
    lines = [make_step(number, number).model_dump_json() + "\n" for number in range(1, 4)]
    with (tmp_path / rundir.HISTORY).open("w") as stream:
        stream.write(lines[0] + "no record\n" + lines[1] + lines[2][:20])
        stream.flush()
        assert tail.fresh() == [make_step(1, 1), make_step(2, 2)]
        assert tail.fresh() == []
        stream.write(lines[2][20:])
        stream.flush()
        assert tail.fresh() == [make_step(3, 3)]


def test_records_of_all_kinds_are_read_back(tmp_path: Path, records: list[Record]) -> None:
    text = "".join(record.model_dump_json() + "\n" for record in records)
    (tmp_path / rundir.HISTORY).write_text(text)
    assert rundir.HistoryTail(tmp_path).fresh() == records


def test_the_job_and_its_plan_are_left_for_the_report(
    tmp_path: Path, job: DistributedTrainingJob, inspection: Inspection
) -> None:
    plan = make_plan(local_settings(job, tmp_path), inspection)
    rundir.describe(tmp_path, job, plan)
    facts = read_facts(tmp_path)
    assert facts.plan == plan
    assert facts.manifest["metadata"]["name"] == "tiny"
    assert "status" not in facts.manifest


def test_what_is_missing_or_broken_is_left_out_of_the_facts(tmp_path: Path) -> None:
    assert (read_facts(tmp_path).manifest, read_facts(tmp_path).plan) == ({}, None)
    (tmp_path / rundir.MANIFEST).write_text("{")
    (tmp_path / rundir.PLAN).write_text("{}")
    assert (read_facts(tmp_path).manifest, read_facts(tmp_path).plan) == ({}, None)


def test_the_model_is_found_wherever_it_lies(tmp_path: Path) -> None:
    assert rundir.find_model(tmp_path) is None
    model = tmp_path / "checkpoints" / rundir.MODEL
    model.parent.mkdir()
    model.touch()
    assert rundir.find_model(tmp_path) == model


def test_kills_are_sorted_by_step() -> None:
    assert parse(["2@60", "0@5"], 4) == (Kill(0, 5), Kill(2, 60))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2", "must be RANK@STEP, like 2@60, not '2'"),
        ("-1@4", "must be RANK@STEP"),
        ("2@60x", "must be RANK@STEP"),
        ("4@60", "there is no rank 4, the last of 4 is 3"),
    ],
)
def test_kills_that_make_no_sense(text: str, sentence: str) -> None:
    with pytest.raises(Refusal, match="--kill: ") as refused:
        parse([text], 4)
    assert sentence in refused.value.problems[0]


def test_kills_are_due_once_their_step_is_committed() -> None:
    early, late = Kill(0, 5), Kill(1, 9)
    assert split([early, late], 4) == ((), (early, late))
    assert split([early, late], 5) == ((early,), (late,))
    assert split([early, late], 20) == ((early, late), ())
