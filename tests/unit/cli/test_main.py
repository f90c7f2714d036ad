"""The command line as a person meets it."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reknit.errors import ConfigurationError
from reknit.protocol.inspection import Inspection
from reknit.protocol.status import Record
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli import check, rundir, running
from reknit_operator.cli.refusal import Refusal
from reknit_operator.local import session as local

Reknit = Callable[..., Any]


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch, inspection: Inspection) -> None:
    """The dry run succeeds without a process."""
    monkeypatch.setattr(check, "inspect_function", lambda _settings, _folder: inspection)
    monkeypatch.setattr(running, "inspect_warm", lambda _settings, _folder, **_: inspection)


@pytest.fixture
def play(
    monkeypatch: pytest.MonkeyPatch,
    make_session: Any,
    records: list[Record],
    with_condition: Callable[..., DistributedTrainingJob],
    inspected: None,
) -> Callable[..., list[Any]]:
    """Has `reknit run` meet a session that plays records; returns the sessions it makes."""

    def arrange(
        kind: str = "Succeeded",
        reason: str = "Completed",
        *,
        error: Any = None,
        failures: Sequence[str | None] = (None,),
        unwritten: int = 0,
        **status: Any,
    ) -> list[Any]:
        made: list[Any] = []

        def make(job: DistributedTrainingJob, **arguments: Any) -> Any:
            end = with_condition(job, kind, reason, **status)
            session = make_session(
                records,
                end,
                start_error=error,
                stride=5,
                failures=failures,
                unwritten=unwritten,
            )
            session.arguments = arguments
            made.append(session)
            text = "".join(record.model_dump_json() + "\n" for record in records)
            if error is None:
                (arguments["run_dir"] / rundir.HISTORY).write_text(text)
            return session

        monkeypatch.setattr(local, "LocalSession", make)
        return made

    return arrange


@pytest.mark.parametrize("command", ["validate", "plan", "run", "top", "report"])
def test_every_command_teaches_with_an_example(reknit: Reknit, command: str) -> None:
    ended = reknit(command, "--help")
    assert ended.code == 0
    assert f"Example:  reknit {command} " in ended.out


def test_help_names_all_commands(reknit: Reknit) -> None:
    text = reknit("--help").out
    assert all(command in text for command in ("validate", "plan", "run", "top", "report"))
    assert "reknit run job.yaml" in text


def test_validate_lists_every_mistake_and_starts_nothing(reknit: Reknit, manifest: Path) -> None:
    text = manifest.read_text().replace("replicas: 2", "replicas: 0").replace("micro", "mikro")
    manifest.write_text(text)
    ended = reknit("validate", manifest)
    assert ended.code == 2
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert len(lines) == len({line.split(": ")[1] for line in lines}) >= 2
    assert any("spec.batch.mikro" in line and "did you mean micro" in line for line in lines)
    assert any("spec.workers.replicas" in line for line in lines)


def test_validate_tells_what_the_job_is(reknit: Reknit, manifest: Path, inspected: None) -> None:
    ended = reknit("validate", manifest)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{manifest} is in order\n")
    assert "2 ranks in 2 pods" in ended.out
    assert sorted(path.name for path in manifest.parent.iterdir()) == ["job.yaml"]


def test_a_function_that_is_not_there_is_refused(reknit: Reknit, manifest: Path) -> None:
    ended = reknit("validate", manifest)
    assert ended.code == 2
    sentence = (
        f"{manifest}: spec.entrypoint.function: there is no module 'tiny' beside the manifest or "
        "installed"
    )
    assert ended.err.startswith(sentence)
    assert len(ended.err.splitlines()) == 1


def test_fields_that_the_function_lacks_are_refused(reknit: Reknit, manifest: Path) -> None:
    (manifest.parent / "tiny.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Config:\n"
        "    step: int = 3\n"
        "def train(job, config: Config): ...\n"
    )
    ended = reknit("run", manifest)
    assert (ended.code, ended.out) == (2, "")
    sentence = "spec.entrypoint.config.steps: unknown field, did you mean step?"
    assert ended.err == f"{manifest}: {sentence}\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_the_spec_is_not_set_from_the_command_line(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]], command: str
) -> None:
    made = play()
    ended = reknit(command, manifest, "--set", "workers.replicas=4")
    assert (ended.code, ended.out) == (2, "")
    assert "edit spec.workers.replicas in the manifest" in ended.err
    assert made == []


def test_a_field_of_the_functions_own_type_is_set_although_the_spec_has_it_too(
    reknit: Reknit, manifest: Path, monkeypatch: pytest.MonkeyPatch, inspection: Inspection
) -> None:
    typed = inspection.model_copy(update={"config_fields": ("steps", "workers")})
    monkeypatch.setattr(check, "inspect_function", lambda _settings, _folder: typed)
    assert reknit("validate", manifest, "--set", "workers=4").code == 0


def test_ranks_without_work_are_a_warning(reknit: Reknit, manifest: Path, inspected: None) -> None:
    manifest.write_text(manifest.read_text().replace("micro: 2", "micro: 8"))
    ended = reknit("validate", manifest)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == (
        "warning: 1 rank runs a last pass of weight 0, so 50% of the work is idle: lower "
        "batch.micro or workers"
    )
    ended = reknit("plan", manifest, "--json")
    assert json.loads(ended.out)["batch"]["idle_ranks"] == [1]
    assert ended.err.startswith("warning: 1 rank runs")


COMMAND = """
apiVersion: reknit.dev/v1alpha1
kind: DistributedTrainingJob
metadata: {name: tiny}
spec:
  entrypoint: {command: [PROGRAM, -u, train.py]}
"""


def test_a_script_that_is_not_there_is_a_warning(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    play()
    folder = manifest.parent / "elsewhere"
    folder.mkdir()
    file = folder / "job.yaml"
    file.write_text(COMMAND.replace("PROGRAM", sys.executable))
    missing = "warning: spec.entrypoint.command: there is no train.py"
    ended = reknit("validate", file)
    assert ended.code == 0
    assert f"{missing} beside the manifest or in this folder" in ended.out
    (folder / "train.py").touch()
    assert "warning" not in reknit("validate", file).out
    ended = reknit("run", file)
    assert ended.code == 0
    assert f"{missing} in this folder, where it starts" in ended.err
    (manifest.parent / "train.py").touch()
    assert reknit("run", file).err == ""


def test_a_command_is_not_configured_from_the_command_line(reknit: Reknit, manifest: Path) -> None:
    manifest.write_text(COMMAND.replace("PROGRAM", sys.executable))
    ended = reknit("validate", manifest, "--set", "steps=4")
    assert ended.code == 2
    sentence = "a command gets no config, write its arguments into the manifest"
    assert ended.err == f"--set: {sentence}\n"


def test_a_program_that_is_not_there_starts_nothing(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    made = play()
    manifest.write_text(COMMAND.replace("PROGRAM", "pyhton"))
    ended = reknit("run", manifest)
    assert ended.code == 2
    sentence = "spec.entrypoint.command: there is no program pyhton on this machine"
    assert ended.err == f"{manifest}: {sentence}\n"
    assert made == []
    # Its image may have it.
    assert reknit("validate", manifest).code == 0


def test_a_failure_of_the_users_code_is_the_users_traceback(reknit: Reknit, manifest: Path) -> None:
    (manifest.parent / "tiny.py").write_text("def train(job, config):\n    raise ValueError('x')\n")
    ended = reknit("validate", manifest)
    assert (ended.code, ended.out) == (1, "")
    lines = ended.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: x"
    assert sum("File " in line for line in lines) == 1


def test_zero_refuses_an_optimizer_that_needs_whole_parameters(
    reknit: Reknit, manifest: Path, monkeypatch: pytest.MonkeyPatch, inspection: Inspection
) -> None:
    muon = inspection.model_copy(update={"elementwise": False, "optimizer": "torch.optim.Muon"})
    monkeypatch.setattr(check, "inspect_function", lambda _settings, _folder: muon)
    assert reknit("validate", manifest).code == 0
    manifest.write_text(manifest.read_text() + "  parallelism: {sharding: ZeRO1}\n")
    ended = reknit("validate", manifest)
    assert ended.code == 2
    assert "spec.parallelism.sharding: Muon needs whole parameters" in ended.err


def test_plan_prints_json_alone(reknit: Reknit, manifest: Path, inspected: None) -> None:
    ended = reknit("plan", manifest, "--json", "--set", "steps=9")
    assert ended.code == 0
    plan = json.loads(ended.out)
    assert plan["world_size"] == 2
    assert [choice["sharding"] for choice in plan["choices"] if choice["chosen"]] == ["None"]


def test_plan_prints_tables(reknit: Reknit, manifest: Path, inspected: None) -> None:
    ended = reknit("plan", manifest)
    assert "None (chosen)" in ended.out
    assert "tiny-worker-1" in ended.out


def test_plan_says_where_there_are_no_checkpoints(
    reknit: Reknit, manifest: Path, inspected: None
) -> None:
    note = "In a cluster the job writes no checkpoints"
    manifest.write_text(manifest.read_text() + "  parallelism: {sharding: ZeRO1}\n")
    ended = reknit("plan", manifest)
    assert note in ended.out
    assert "state comes from the newest checkpoint of a local run, at most" in ended.out
    volume = "  checkpoint: {volume: {hostPath: {path: /checkpoints}}}\n"
    manifest.write_text(manifest.read_text() + volume)
    ended = reknit("plan", manifest)
    assert note not in ended.out
    assert "state comes from the newest checkpoint, at most" in ended.out


def test_run_sums_up_and_leaves_a_report(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    made = play()
    ended = reknit("run", manifest, "--kill", "1@3", "--metrics-port", "9123")
    assert ended.code == 0
    assert "[6.5 s] RankExited: RankExited it is." in ended.out
    summary = ended.out[ended.out.index("tiny has succeeded") :]
    assert "held-out loss  0.5 at step 10" in summary
    assert "report         runs/tiny-1/report.html" in summary
    assert "Succeeded" in Path("runs/tiny-1/report.html").read_text()
    assert json.loads(Path("runs/tiny-1/job.json").read_text())["metadata"]["name"] == "tiny"
    assert made[0].killed == [(1, 5)]
    del made[0].arguments["nursery"]
    assert made[0].arguments == {
        "run_dir": Path("runs/tiny-1"),
        "python_path": [manifest.parent],
        "metrics_port": 9123,
    }
    assert not rundir.is_claimed(Path("runs/tiny-1"))


def test_each_run_has_its_folder_and_resume_takes_the_last(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    made = play()
    for arguments in (
        [],
        [],
        ["--resume"],
        ["--run-dir", "mine"],
        ["--run-dir", "mine", "--resume"],
    ):
        assert reknit("run", manifest, *arguments).code == 0
    assert [str(session.arguments["run_dir"]) for session in made] == [
        "runs/tiny-1",
        "runs/tiny-2",
        "runs/tiny-2",
        "mine",
        "mine",
    ]


def test_the_users_traceback_comes_last(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    traceback = 'Traceback (most recent call last):\n  File "tiny.py"\nValueError: [b]x[/b]\n'
    play("Failed", "ProgramError", message="ValueError: x", traceback=traceback)
    ended = reknit("run", manifest)
    assert ended.code == 1
    assert ended.err == traceback
    assert "tiny has failed: ValueError: x" in ended.out


def test_a_wrong_configuration_is_one_sentence(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    play("Failed", "Configuration", message="the checkpoint is of another model")
    ended = reknit("run", manifest)
    assert ended.code == 2
    assert ended.err == "the checkpoint is of another model\n"


def test_a_stopped_run_says_how_to_go_on(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    play("Suspended", "Suspended")
    ended = reknit("run", manifest)
    assert ended.code == 130
    assert f"reknit run {manifest} --resume --run-dir runs/tiny-1" in ended.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--kill", "9@3"], "--kill: there is no rank 9, the last of 2 is 1"),
        (["--set", "steps"], "--set: must be key=value, not 'steps'"),
        (["--resume"], "--resume: there is no run of tiny in runs"),
    ],
)
def test_bad_options_start_nothing(
    reknit: Reknit,
    manifest: Path,
    play: Callable[..., list[Any]],
    arguments: list[str],
    sentence: str,
) -> None:
    made = play()
    ended = reknit("run", manifest, *arguments)
    assert (ended.code, ended.out, ended.err) == (2, "", sentence + "\n")
    assert made == []
    assert not Path("runs").exists()


def test_a_session_that_cannot_start_leaves_no_folder(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    play(error=ConfigurationError("port 9000 is in use"))
    ended = reknit("run", manifest, "--metrics-port", "9000")
    assert (ended.code, ended.err) == (2, "port 9000 is in use\n")
    assert not Path("runs/tiny-1").exists()


def test_a_port_in_use_is_refused_by_the_real_session(
    reknit: Reknit, manifest: Path, inspected: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = reknit("run", manifest, "--metrics-port", port)
    assert ended.code == 2
    assert str(port) in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not Path("runs/tiny-1").exists()


def test_report_and_top_need_a_run(reknit: Reknit) -> None:
    for command in ("report", "top"):
        ended = reknit(command, "runs/none-1")
        assert ended.code == 2
        assert "runs/none-1: holds no history of a run" in ended.err


def test_top_shows_what_is_left_of_a_run(reknit: Reknit, records: list[Record]) -> None:
    text = "".join(record.model_dump_json() + "\n" for record in records)
    Path(rundir.HISTORY).write_text(text)
    ended = reknit("top", ".")
    assert ended.code == 0
    assert ended.out.endswith("does not run any more: step 10/10  loss 0.4\n")


def test_report_is_written_again(reknit: Reknit, records: list[Record]) -> None:
    text = "".join(record.model_dump_json() + "\n" for record in records)
    Path(rundir.HISTORY).write_text(text)
    ended = reknit("report", ".")
    assert (ended.code, ended.out) == (0, "report.html\n")
    assert Path("report.html").exists()


def test_the_command_line_never_loads_torch(tmp_path: Path) -> None:
    code = (
        "import sys, reknit_operator.cli.main, reknit_operator.cli.running\n"
        "import reknit_operator.cli.top, reknit_operator.cli.planview\n"
        "import reknit_operator.local.session\n"
        "sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_comes_without_heavy_imports() -> None:
    code = (
        "import sys, reknit_operator.cli.main\n"
        "sys.exit(sum(m in sys.modules for m in ('aiohttp', 'kubernetes', 'numpy', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_refusal_shows_sentences_or_the_traceback_alone() -> None:
    assert Refusal(["a"]).exit_code == 2
    assert Refusal(["a"], "Traceback").exit_code == 1
    assert str(Refusal(["a", "b"])) == "a; b"


def test_a_dry_run_that_dies_is_told_after_its_last_words(reknit: Reknit, manifest: Path) -> None:
    (manifest.parent / "tiny.py").write_text(
        "import os, signal, sys\n"
        "print('last words', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = reknit("validate", manifest)
    assert (ended.code, ended.out) == (1, "")
    sentence = f"{manifest}: the dry run of tiny:train ended with signal 9"
    assert ended.err == f"last words\n{sentence}\n"


def test_a_dry_run_that_dies_silently_has_failed_too() -> None:
    assert Refusal(["it died"], output="").exit_code == 1


def test_a_suspended_job_is_refused(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    made = play()
    manifest.write_text(manifest.read_text() + "  suspend: true\n")
    ended = reknit("run", manifest)
    sentence = f"{manifest}: spec.suspend: a suspended job has nothing to run, set suspend to false"
    assert (ended.code, ended.out, ended.err) == (2, "", sentence + "\n")
    assert made == []
    assert not Path("runs").exists()
    # In a cluster it is a job like any other.
    assert reknit("validate", manifest).code == 0


def test_a_run_names_what_it_leaves_out(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    play()
    assert "leaves out" not in reknit("run", manifest).out
    manifest.write_text(manifest.read_text() + "  image: a\n  source: {configMap: {name: b}}\n")
    ended = reknit("run", manifest)
    assert ended.code == 0
    assert ended.out.splitlines()[0] == "A local run leaves out: image, source"


def test_a_full_run_folder_does_not_change_how_the_job_ends(
    reknit: Reknit, manifest: Path, play: Callable[..., list[Any]]
) -> None:
    made = play(failures=["the folder is full"], unwritten=2)
    ended = reknit("run", manifest)
    assert ended.code == 0
    assert ended.out.count("the folder is full; training goes on") == 1
    assert ended.err == "the folder is full; its history lacks the last 2 records\n"
    assert made[0].closed == 1


def test_a_folder_that_fills_up_at_the_start_is_refused(
    reknit: Reknit,
    manifest: Path,
    play: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = play()

    def describe(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rundir, "describe", describe)
    ended = reknit("run", manifest)
    assert ended.code == 2
    assert ended.err == "--run-dir: runs/tiny-1 cannot be written (No space left on device)\n"
    assert made[0].closed == 1
