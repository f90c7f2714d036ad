"""The pinned packages are those that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
WANTED = {
    "bootstrap.txt": GROUPS["bootstrap"],
    "dev.txt": BASE + EXTRAS["operator"] + EXTRAS["runtime"] + GROUPS["dev"],
    "operator.txt": BASE + EXTRAS["operator"],
    "runtime.txt": BASE + EXTRAS["runtime"] + EXTRAS["examples"],
}


def pinned(text: str) -> dict[str, str]:
    """Versions by name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("file", WANTED)
def test_every_requirement_is_met_by_a_pin(file: str) -> None:
    pins = pinned((ROOT / "requirements" / file).read_text())
    wanted = {canonicalize_name(r.name): r.specifier for r in map(Requirement, WANTED[file])}
    assert {name for name, allowed in wanted.items() if pins[name] not in allowed} == set()


def test_all_files_pin_the_same_versions() -> None:
    found = [pinned((ROOT / "requirements" / file).read_text()) for file in WANTED]
    for name in set().union(*found):
        assert len({pins[name] for pins in found if name in pins}) == 1, name


@pytest.mark.parametrize("file", WANTED)
def test_every_pin_has_a_hash_and_no_address(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text()
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", text.strip()))
    assert "://" not in text
