"""A manifest to vary, and what an API server would say about it by the generated schema."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import celpy
import jsonschema
import pytest
from celpy import celtypes

from manifests import Manifest, change
from reknit_operator.api.crd import schema

Finding = tuple[str, str]


class ApiServer:
    """Defaulting, schema, list maps and CEL rules, as an API server applies them in this order."""

    def __init__(self) -> None:
        self.schema = schema()
        self._validator = jsonschema.Draft202012Validator(self._plain(self.schema))

    def admit(self, manifest: Manifest, old: Manifest | None = None) -> list[Finding]:
        """The (field, sentence) of everything that is wrong; empty if the object is accepted."""
        new = self.default(manifest)
        found = [
            (_dotted(error.absolute_path), error.message) for error in self._schema_errors(new)
        ]
        found += [(path, "unknown field") for path in unknown_fields(self.schema, new, "")]
        if found:
            return found
        before = None if old is None else self.default(old)
        return list(evaluate_rules(self.schema, new, before, ""))

    def default(self, manifest: Manifest) -> Manifest:
        """A copy of `manifest` with the schema's defaults filled in."""
        filled: Manifest = _default(self.schema, copy.deepcopy(manifest))
        return filled

    def _schema_errors(self, manifest: Manifest) -> list[Any]:
        return sorted(self._validator.iter_errors(manifest), key=lambda error: error.json_path)

    def _plain(self, part: Any) -> Any:
        """The schema in standard words only."""
        if isinstance(part, list):
            return [self._plain(item) for item in part]
        if not isinstance(part, dict):
            return part
        plain = {key: self._plain(value) for key, value in part.items()}
        if plain.pop("x-kubernetes-int-or-string", False) is True:
            plain["type"] = ["integer", "string"]
        return plain


def _default(part: Any, value: Any) -> Any:
    for name, field in part.get("properties", {}).items():
        if "default" in field and value.get(name) is None:
            value[name] = copy.deepcopy(field["default"])
        if isinstance(value.get(name), dict):
            _default(field, value[name])
        if isinstance(value.get(name), list):
            for item in value[name]:
                if isinstance(item, dict):
                    _default(field["items"], item)
    return value


def unknown_fields(part: Any, value: Any, path: str) -> Iterator[str]:
    """What the API server would prune: fields that the schema does not name."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(part.get("items", {}), item, f"{path}[{index}]")
    if not isinstance(value, dict) or "additionalProperties" in part or path == "metadata":
        return
    for name, inner in value.items():
        where = f"{path}.{name}".lstrip(".")
        if name in part.get("properties", {}):
            yield from unknown_fields(part["properties"][name], inner, where)
        elif not part.get("x-kubernetes-preserve-unknown-fields"):
            yield where


def evaluate_rules(part: Any, new: Any, old: Any, path: str) -> Iterator[Finding]:
    """The broken rules of an object and everything below it."""
    for rule in part.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        activation = {"self": _cel(new), "oldSelf": _cel(old)}
        if not _run(rule["rule"], activation):
            sentence = rule.get("message") or str(_run(rule["messageExpression"], activation))
            yield f"{path}{rule.get('fieldPath', '')}".lstrip("."), sentence
    for name, field in part.get("properties", {}).items():
        if isinstance(new, dict) and name in new:
            before = old.get(name) if isinstance(old, dict) else None
            yield from evaluate_rules(field, new[name], before, f"{path}.{name}".lstrip("."))
    if isinstance(new, list):
        for index, item in enumerate(new):
            yield from evaluate_rules(part.get("items", {}), item, None, f"{path}[{index}]")


def _format(template: Any, values: Any) -> Any:
    return celtypes.StringType(str(template).replace("%s", "{}").format(*map(str, values)))


@functools.cache
def _program(expression: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(expression), functions={"format": _format})


def _run(expression: str, activation: dict[str, Any]) -> Any:
    return _program(expression).evaluate(activation)


def _cel(value: Any) -> Any:
    return celpy.json_to_cel(_escaped(value))


def _escaped(value: Any) -> Any:
    """Field names that are words of CEL are written with underscores in rules."""
    if isinstance(value, dict):
        return {
            "__function__" if name == "function" else name: _escaped(inner)
            for name, inner in value.items()
        }
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _dotted(path: Any) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


@pytest.fixture(scope="session")
def api_server() -> ApiServer:
    return ApiServer()


@pytest.fixture(scope="session")
def changed() -> Callable[[dict[str, Any]], Manifest]:
    return change
