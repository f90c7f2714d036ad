"""From pydantic's JSON schema to the structural schema of a CustomResourceDefinition."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from reknit_operator.api.duration import render

Schema: TypeAlias = dict[str, Any]

_INT32_MAX: Final = 2**31 - 1
_COPIED: Final[tuple[str, ...]] = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
"""What means the same in both kinds of schema."""


class _Generator(GenerateJsonSchema):
    """Writes default durations the way people do."""

    def encode_default(self, dft: Any) -> Any:
        return render(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of `model`: no references, no null, a default for each field with one.

    Open models and free-form maps keep unknown fields; lists without keys are atomic.
    """
    schema = model.model_json_schema(by_alias=True, schema_generator=_Generator)
    return _convert(schema, schema.get("$defs", {}))


def _convert(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    schema = _resolve(schema, definitions)
    result: Schema = {key: schema[key] for key in _COPIED if key in schema}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if result.get("type") == "integer":
        largest = max(abs(schema.get("maximum", 2**63)), abs(schema.get("minimum", 0)))
        result["format"] = "int32" if largest <= _INT32_MAX else "int64"
    if result.get("type") == "array":
        result["items"] = _convert(schema["items"], definitions)
        result.setdefault("x-kubernetes-list-type", "atomic")
    if result.get("type") == "object":
        result |= _convert_fields(schema, definitions)
    if schema.get("default") is not None:
        result["default"] = schema["default"]
        if "properties" in result:
            # Complete, because the API server holds a default against the object's rules as it is.
            fields = result["properties"].items()
            result["default"] = {
                name: field["default"] for name, field in fields if "default" in field
            }
    return result


def _convert_fields(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    result: Schema = {}
    others = schema.get("additionalProperties", False)
    values = _convert(others, definitions) if isinstance(others, dict) else {}
    if values:
        result["additionalProperties"] = values
    elif others is not False:
        result["x-kubernetes-preserve-unknown-fields"] = True
    if "properties" in schema:
        fields = schema["properties"].items()
        result["properties"] = {name: _convert(field, definitions) for name, field in fields}
    if schema.get("required"):
        result["required"] = schema["required"]
    return result


def _resolve(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """`schema` with its reference and its `or null` resolved; what stands outside wins."""
    while True:
        if "$ref" in schema:
            inner = definitions[schema["$ref"].removeprefix("#/$defs/")]
        elif "anyOf" in schema:
            (inner,) = (part for part in schema["anyOf"] if part.get("type") != "null")
        else:
            return schema
        schema = inner | {key: schema[key] for key in schema if key not in ("$ref", "anyOf")}
