"""Manifests, and what the command line changes in them."""

from pathlib import Path
from typing import Any

import pytest

from reknit_operator.cli.manifests import assign, local_settings, misdirected, read_job
from reknit_operator.cli.refusal import Refusal


def problems(file: Path, *assignments: str) -> tuple[str, ...]:
    with pytest.raises(Refusal) as refused:
        read_job(file, assignments)
    assert refused.value.exit_code == 2
    return refused.value.problems


def test_reads_a_job(manifest: Path) -> None:
    job = read_job(manifest)
    assert job.metadata.name == "tiny"
    assert job.spec.entrypoint.config == {"steps": 4}


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    assert problems(tmp_path / "no.yaml") == (f"{tmp_path}/no.yaml: there is no such file",)


def test_a_folder_or_binary_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in problems(tmp_path)[0]
    assert "cannot be read" in problems(tmp_path / "binary")[0]


def test_every_mistake_is_listed_with_file_and_field(manifest: Path) -> None:
    text = manifest.read_text().replace("replicas: 2", "replicas: x").replace("batch:", "bach:")
    manifest.write_text(text)
    found = problems(manifest)
    assert len(found) == 2
    assert any(f"{manifest}: spec.workers.replicas: " in problem for problem in found)
    assert any("spec.bach" in problem and "did you mean batch" in problem for problem in found)


def test_assignments_change_the_config(manifest: Path) -> None:
    job = read_job(manifest, ["steps=9", "rate=1e-3", "deep.width=[1, 2]", "name=x=y", "empty="])
    assert job.spec.entrypoint.config == {
        "steps": 9,
        "rate": "1e-3",
        "deep": {"width": [1, 2]},
        "name": "x=y",
        "empty": "",
    }


def test_an_assignment_keeps_its_neighbours() -> None:
    inner = {"a": 1}
    config: dict[str, Any] = {"deep": inner}
    assign(config, "deep.b=2")
    assert config == {"deep": {"a": 1, "b": 2}}
    assert inner == {"a": 1}


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("steps", "--set: must be key=value, not 'steps'"),
        ("=3", "--set: must be key=value, not '=3'"),
        ("a..b=3", "--set: must be key=value, not 'a..b=3'"),
        ("steps.x=3", "--set steps.x: steps is no mapping"),
        ("x=[1", "--set x: '[1' is no value; quote it"),
    ],
)
def test_assignments_that_make_no_sense(manifest: Path, assignment: str, sentence: str) -> None:
    assert problems(manifest, assignment) == (sentence,)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        (
            "workers.replicas=4",
            "--set workers.replicas: changes entrypoint.config only; "
            "edit spec.workers.replicas in the manifest",
        ),
        (
            "spec.seed=4",
            "--set spec.seed: changes entrypoint.config only; edit spec.seed in the manifest",
        ),
        (
            "spec.entrypoint.config.depth=4",
            "--set spec.entrypoint.config.depth: changes entrypoint.config only; write --set depth",
        ),
    ],
)
def test_an_assignment_to_the_spec_says_where_it_belongs(assignment: str, sentence: str) -> None:
    name = assignment.partition(".")[0]
    assert list(misdirected(["depth=3", assignment], {"depth"}, ())) == [sentence]
    assert list(misdirected([assignment], {name}, ())) == []
    assert list(misdirected([assignment], (), {name})) == []


def test_checkpoints_go_to_the_folder_of_the_run(manifest: Path) -> None:
    settings = local_settings(read_job(manifest), Path("runs/tiny-1"))
    assert settings.checkpoint is not None
    assert settings.checkpoint.path == "runs/tiny-1/checkpoints"
    assert settings.world_size == 2


def test_deepspeed_settings_must_not_contradict_the_spec(manifest: Path) -> None:
    zero = "  parallelism: {sharding: ZeRO1}\n  deepspeed: {config: {train_batch_size: 3}}\n"
    manifest.write_text(manifest.read_text() + zero)
    with pytest.raises(Refusal) as refused:
        local_settings(read_job(manifest), Path("runs"))
    assert "spec.deepspeed.config.train_batch_size" in refused.value.problems[0]
