"""The generated CustomResourceDefinition: the conventions of Kubernetes, checked as a linter would.

The rules are those of kube-api-linter and of the API server's own checks of definitions.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reknit_operator.api.crd import FILE_NAME, definition, main, render
from reknit_operator.api.ruletable import MAX_NAME

STRUCTURAL = {
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "items",
    "properties",
    "additionalProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}
SERVER_OWNED = ("apiVersion", "kind", "metadata")
FREE_FORM = {
    "spec.entrypoint.config",
    "spec.deepspeed.config",
    "spec.workers.template.spec",
    "spec.workers.template.spec.containers[]",
    "spec.workers.template.spec.containers[].resources",
    "spec.workers.template.spec.containers[].env[]",
}


def walk(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, part
    for name, field in part.get("properties", {}).items():
        if path or name not in SERVER_OWNED:
            yield from walk(field, f"{path}.{name}".lstrip("."))
    if "items" in part:
        yield from walk(part["items"], f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from walk(part["additionalProperties"], f"{path}{{}}")


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    return definition()


@pytest.fixture(scope="module")
def version(crd: dict[str, Any]) -> dict[str, Any]:
    (only,) = crd["spec"]["versions"]
    return only


@pytest.fixture(scope="module")
def schema(version: dict[str, Any]) -> dict[str, Any]:
    return version["schema"]["openAPIV3Schema"]


@pytest.fixture(scope="module")
def parts(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(walk(schema))


def of_type(parts, kind):
    return {path: part for path, part in parts.items() if part.get("type") == kind}


def test_names(crd):
    names = crd["spec"]["names"]

    assert crd["metadata"]["name"] == f"{names['plural']}.{crd['spec']['group']}"
    assert names["kind"] == "DistributedTrainingJob"
    assert names["listKind"] == "DistributedTrainingJobList"
    assert names["singular"] == names["kind"].lower()
    assert names["shortNames"] == ["dtj"]
    assert crd["spec"]["scope"] == "Namespaced"


def test_status_is_a_subresource(version):
    assert version["subresources"] == {"status": {}}
    assert (version["served"], version["storage"]) == (True, True)


def test_only_words_of_structural_schemas_are_used(parts):
    assert {word for part in parts.values() for word in part} <= STRUCTURAL


def test_every_field_has_one_type(parts):
    for path, part in parts.items():
        assert ("type" in part) != part.get("x-kubernetes-int-or-string", False), path
        assert isinstance(part.get("type", ""), str), path


def test_there_are_no_floats(parts):
    assert of_type(parts, "number") == {}


def test_integers_have_a_format_that_holds_their_bounds(parts):
    for path, part in of_type(parts, "integer").items():
        limit = 2 ** {"int32": 31, "int64": 63}[part["format"]]
        assert -limit <= part["minimum"] <= part["maximum"] < limit, path


def test_texts_are_bounded(parts):
    texts = of_type(parts, "string")

    assert [path for path, part in texts.items() if not {"maxLength", "enum"} & part.keys()] == []
    assert all(part.get("maxLength", 0) <= 32768 for part in texts.values())


def test_lists_are_bounded_and_say_how_they_merge(parts):
    for path, part in of_type(parts, "array").items():
        assert 1 <= part["maxItems"] <= 1024, path
        assert part["x-kubernetes-list-type"] in ("atomic", "map"), path
        if part["x-kubernetes-list-type"] == "map":
            keys = part["x-kubernetes-list-map-keys"]
            assert set(keys) <= set(part["items"]["required"]), path


def test_maps_are_bounded(parts):
    for path, part in of_type(parts, "object").items():
        if "properties" not in part:
            keeps = part.get("x-kubernetes-preserve-unknown-fields", False)
            assert keeps != ("additionalProperties" in part), path
            if not path.endswith("containers[].resources"):
                assert part["maxProperties"] <= 4096, path


def test_only_free_form_parts_keep_unknown_fields(parts):
    found = {path for path, part in parts.items() if "x-kubernetes-preserve-unknown-fields" in part}

    assert found == FREE_FORM


def test_a_field_with_a_default_is_not_required(parts):
    for path, part in parts.items():
        for name in part.get("required", ()):
            assert "default" not in part["properties"][name], f"{path}.{name}"


def test_defaults_satisfy_the_schema_and_its_rules_as_they_stand(api_server, changed, parts):
    shortest = changed({})

    assert api_server.admit(shortest) == []
    filled = api_server.default(shortest)
    assert api_server.default(filled) == filled
    for path, part in parts.items():
        if part.get("type") == "object" and "default" in part:
            complete = {
                name: field["default"]
                for name, field in part["properties"].items()
                if "default" in field
            }
            assert part["default"] == complete, path


def test_names_of_fields_are_camel_case_and_of_choices_too(parts):
    for path, part in parts.items():
        for name in part.get("properties", ()):
            assert re.fullmatch("[a-z][a-zA-Z0-9]*", name), f"{path}.{name}"
        for choice in part.get("enum", ()):
            assert re.fullmatch("[A-Z][a-zA-Z0-9]*", choice), f"{path}: {choice}"


def test_every_field_is_described_in_one_paragraph(parts):
    for path, part in parts.items():
        if path and not path.endswith(("[]", "{}")):
            assert re.fullmatch(r"[^\n]+\.( *)?", part["description"]), path


def test_conditions_come_first_and_there_is_no_phase(schema, parts):
    status = schema["properties"]["status"]

    assert next(iter(status["properties"])) == "conditions"
    assert "status.phase" not in parts
    condition = parts["status.conditions[]"]
    assert set(condition["required"]) == {"type", "status", "reason", "lastTransitionTime"}
    assert condition["properties"]["status"]["enum"] == ["True", "False", "Unknown"]


def test_status_has_no_rules_and_nothing_required(schema):
    status = schema["properties"]["status"]

    assert "required" not in status
    assert "x-kubernetes-validations" not in json.dumps(status)


def test_rules_have_a_sentence_and_a_field_that_exists(parts):
    num_rules = 0
    for path, part in parts.items():
        for rule in part.get("x-kubernetes-validations", ()):
            num_rules += 1
            assert ("message" in rule) != ("messageExpression" in rule), rule
            assert "\n" not in rule.get("message", rule.get("messageExpression"))
            where = f"{path}{rule.get('fieldPath', '')}".lstrip(".")
            assert where in parts or where == "metadata.name", rule
    assert num_rules > 40


def test_rules_are_told_apart_by_what_they_say(parts):
    for path, part in parts.items():
        rules = [(rule["rule"]) for rule in part.get("x-kubernetes-validations", ())]
        assert len(set(rules)) == len(rules), path


def test_messages_are_no_concatenations(parts):
    """The API server cannot bound the cost of `+` on texts and refuses the definition."""
    for part in parts.values():
        for rule in part.get("x-kubernetes-validations", ()):
            assert "+" not in rule.get("messageExpression", "")


def test_columns_show_fields_that_exist(version, parts):
    columns = {column["name"]: column for column in version["additionalPrinterColumns"]}

    assert next(iter(columns)) == "State"
    assert list(columns)[-1] == "Age"
    for column in columns.values():
        path = re.sub(r"\[\?\(.*?\)\]", "[]", column["jsonPath"].removeprefix("."))
        if not path.startswith("metadata."):
            assert parts[path]["type"] == column["type"], column


def test_names_of_pods_fit_into_a_host_name():
    longest = "-worker-1023-99999999"

    assert MAX_NAME + len(longest) <= 63


def test_the_file_is_fresh_and_small():
    file = Path(__file__).parents[3] / "crds" / FILE_NAME

    assert file.read_text() == render()
    # A definition has to fit into the annotation that `kubectl apply` makes: 256 KiB.
    assert len(json.dumps(yaml.safe_load(file.read_text()))) < 128 * 1024


def test_write_and_check(tmp_path, capsys):
    folder = tmp_path / "new"

    assert main(["--check", str(folder)]) == 1
    assert "does not match the types; run `make gen`" in capsys.readouterr().err
    assert main(["--write", str(folder)]) == 0
    assert main(["--check", str(folder)]) == 0
    assert yaml.safe_load((folder / FILE_NAME).read_text()) == definition()
    (folder / FILE_NAME).write_text(render() + "\n# by hand\n")
    assert main(["--check", str(folder)]) == 1


def test_one_action_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])

    assert caught.value.code == 2
    assert "--write" in capsys.readouterr().err
