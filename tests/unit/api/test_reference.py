"""The page that describes every field."""

from pathlib import Path

import pytest

from reknit_operator.api.reference import main, render
from reknit_operator.api.types import DistributedTrainingJob

PAGE = Path(__file__).parents[3] / "docs" / "manifest.md"


@pytest.mark.parametrize(
    "line",
    [
        "| `sharding` | `None`, `ZeRO1`, `ZeRO2`, `ZeRO3`, `FSDP` | `None` | What data-parallel",
        "| `entrypoint` | object | required | What every rank runs. See [spec.entrypoint](#spec",
        "| `command` | list of string |  | A program and its arguments",
        "| `seed` | integer, 0 to 4294967295 | `0` | Seed of everything random",
        "| `suspend` | boolean | `false` | True ends the pods",
    ],
)
def test_a_field_is_told_with_type_default_and_meaning(line: str) -> None:
    assert any(found.startswith(line) for found in render().splitlines())


def test_every_field_of_the_spec_has_a_line_and_every_link_a_heading() -> None:
    text = render()
    for field in DistributedTrainingJob.model_json_schema(by_alias=True)["$defs"]["JobSpec"][
        "properties"
    ]:
        assert f"| `{field}` |" in text
    headings = {
        line[3:].lower().replace(".", "") for line in text.splitlines() if line[:3] == "## "
    }
    links = {part.split(")")[0] for part in text.split("](#")[1:]}
    assert links <= headings


def test_a_stale_page_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "manifest.md"
    assert main(["--check", str(page)]) == 1
    assert "make gen" in capsys.readouterr().err
    assert main(["--write", str(page)]) == 0
    assert main(["--check", str(page)]) == 0
    page.write_text(page.read_text() + " ")
    assert main(["--check", str(page)]) == 1


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == render()
