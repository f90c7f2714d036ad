"""The jobs of examples/ are in order."""

import ast
import re
from pathlib import Path

import pytest

from reknit_operator.cli.check import check
from reknit_operator.cli.manifests import local_settings, read_job

ROOT = Path(__file__).parents[3]
MANIFESTS = sorted(ROOT.glob("examples/*/*.yaml"))
every_example = pytest.mark.parametrize(
    "file", MANIFESTS, ids=[str(file.relative_to(ROOT)) for file in MANIFESTS]
)


@every_example
def test_a_manifest_keeps_to_schema_and_rules(file: Path, tmp_path: Path) -> None:
    job = read_job(file)
    settings = local_settings(job, tmp_path)
    how = re.findall(r"^# (?:reknit run|kubectl apply -f) (.+)$", file.read_text(), re.MULTILINE)
    assert how == [str(file.relative_to(ROOT))]
    assert settings.function is not None
    module, _, function = settings.function.partition(":")
    tree = ast.parse((file.parent / f"{module}.py").read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert function in functions
    fields = {
        statement.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    assert job.spec.entrypoint.config.keys() <= fields


@pytest.mark.long
@every_example
def test_a_job_is_in_order(file: Path, tmp_path: Path) -> None:
    """With the dry run of its function."""
    assert check(file, [], tmp_path).inspection is not None


def test_every_folder_has_a_job() -> None:
    folders = {file.parent for file in ROOT.glob("examples/*/*.py")}
    assert folders == {file.parent for file in MANIFESTS if file.name == "job.yaml"}
