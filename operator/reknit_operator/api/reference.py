"""The description of every field of a manifest, generated from the types.

`python -m reknit_operator.api.reference --write FILE` writes it, `--check FILE` tells whether it is
fresh.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from reknit_operator.api.crd import schema
from reknit_operator.api.schema import Schema

_HEADER: Final = """\
# Fields of a manifest

Generated from the types by `make gen`. `kubectl explain dtj.spec --recursive` says the same of an
installed version. `reknit validate` and the API server refuse unknown fields, wrong types, and what
does not fit together, with a sentence.
"""


def render() -> str:
    """The text of the page, in Markdown: a table for each part of `spec`."""
    return "\n".join([_HEADER, *_part("spec", schema()["properties"]["spec"])])


def _part(path: str, part: Schema) -> Iterator[str]:
    fields = part["properties"]
    required = part.get("required", [])
    yield f"## {path}\n"
    if path != "spec" and "description" in part:
        yield f"{part['description']}\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for name, field in fields.items():
        default = "required" if name in required else _default(field)
        meaning = field.get("description", "").replace("|", "\\|")
        if _inner(field) is not None:
            meaning += f" See [{path}.{name}](#{_anchor(f'{path}.{name}')})."
        yield f"| `{name}` | {_type(field)} | {default} | {meaning.strip()} |"
    yield ""
    for name, field in fields.items():
        inner = _inner(field)
        if inner is not None:
            yield from _part(f"{path}.{name}", inner)


def _inner(field: Schema) -> Schema | None:
    """The part that the field holds, or holds several of."""
    inner: Schema = field.get("items", field)
    return inner if inner.get("properties") else None


def _anchor(path: str) -> str:
    """What Markdown's readers make of the heading."""
    return path.lower().replace(".", "")


def _default(field: Schema) -> str:
    if "default" not in field or field["default"] in ({}, []) or isinstance(field["default"], dict):
        return ""
    default = field["default"]
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _type(field: Schema) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "items" in field:
        return "list" if _inner(field) is not None else f"list of {_type(field['items'])}"
    kind: str = field.get("type", "any")
    if kind == "object" and "properties" not in field:
        return "map"
    bounds = [field.get(name) for name in ("minimum", "maximum")]
    if kind in {"integer", "number"} and bounds[0] is not None and bounds[1] is not None:
        return f"{kind}, {bounds[0]} to {bounds[1]}"
    if kind in {"integer", "number"} and bounds[0] is not None:
        return f"{kind}, from {bounds[0]}"
    return kind


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the page; the exit status is 1 if a checked one is stale."""
    parser = argparse.ArgumentParser(
        prog="python -m reknit_operator.api.reference", description=__doc__
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE", help="write the page into FILE")
    action.add_argument("--check", type=Path, metavar="FILE", help="compare it with FILE")
    options = parser.parse_args(arguments)
    if options.write is not None:
        options.write.write_text(render(), encoding="utf-8")
        return 0
    file: Path = options.check
    if file.is_file() and file.read_text(encoding="utf-8") == render():
        return 0
    print(f"{file} does not match the types; run `make gen`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
