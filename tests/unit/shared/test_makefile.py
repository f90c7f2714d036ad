"""What `make help` shows."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_help_lists_every_target_for_people() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    found = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert found is not None
    shown = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {line.split()[0] for line in shown.stdout.splitlines()} == set(found[1].split())
