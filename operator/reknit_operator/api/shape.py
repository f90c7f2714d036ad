"""Mistakes of shape: unknown, missing and mistyped fields, each in one sentence.

pydantic finds them; this module says them in words that name the field and the remedy.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reknit_operator.api.pods import QUANTITY_PATTERN
from reknit_operator.api.problems import ManifestError, Problem
from reknit_operator.api.spec import FUNCTION_PATTERN
from reknit_operator.api.types import DistributedTrainingJob, JobStatus

_TYPES: Final = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "int_parsing_size": "a smaller number",
    "model_type": "a mapping",
    "string_type": "text",
    "time_delta_type": "a duration like 90s, 10m or 1h30m",
    "tuple_type": "a list",
}
_PATTERNS: Final = {
    FUNCTION_PATTERN: "must name a function as module:function",
    QUANTITY_PATTERN: "must be an amount like 4, 500m or 16Gi",
    "^/": "must be an absolute path",
}
_LIMITS: Final = {
    "greater_than_equal": ("ge", "must be at least {limit}"),
    "less_than_equal": ("le", "must be at most {limit}"),
    "string_too_long": ("max_length", "must be at most {limit} characters long"),
    "string_too_short": ("min_length", "must not be empty"),
    "too_long": ("max_length", "must have at most {limit} entries"),
    "too_short": ("min_length", "must not be empty"),
}


def parse_object(value: Mapping[str, Any]) -> DistributedTrainingJob:
    """The job that an object of plain JSON values stands for, with defaults filled in.

    Raises:
        ManifestError: fields are unknown, missing or of the wrong type or size.
    """
    try:
        text = json.dumps(_without_nulls(value, DistributedTrainingJob))
    except (TypeError, ValueError, RecursionError) as error:
        sentence = f"the manifest holds values that JSON does not know: {error}"
        raise ManifestError([Problem("", sentence)]) from None
    try:
        # From JSON, because strictness about types is then that of the API server: "4" is no
        # integer, yet a text may name a member of an enumeration.
        return DistributedTrainingJob.model_validate_json(
            text, strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise ManifestError(_problems(value, error.errors(include_url=False))) from None


def _without_nulls(value: Any, model: type[BaseModel] | None) -> Any:
    """`value` without nulls in fields of `model`: like the API server, null is taken for absent."""
    if isinstance(value, list):
        return [_without_nulls(item, model) for item in value]
    if model is None or not isinstance(value, Mapping):
        return value
    types = {info.alias: info.annotation for info in model.model_fields.values()}
    return {
        name: _without_nulls(inner, _model_in(types.get(name)))
        for name, inner in value.items()
        if inner is not None or name not in types
    }


def _problems(value: Mapping[str, Any], errors: Iterable[ErrorDetails]) -> list[Problem]:
    found: dict[str, Problem] = {}
    for error in errors:
        location = _location(value, error)
        path = _path(location)
        if error["type"] == "extra_forbidden":
            sentence = _unknown_field(location)
        elif path in found and error["type"] == "string_type":
            # A union of number and text reports an error for each of the two.
            sentence = f"must be a whole number or text, not {_shown(error['input'])}"
        else:
            sentence = _mistake(error)
        found[path] = Problem(path, sentence)
    return list(found.values())


def _location(value: Any, error: ErrorDetails) -> tuple[str | int, ...]:
    """Where in the manifest the error is; pydantic adds names of unions' members to the end."""
    location = error["loc"]
    for depth, part in enumerate(location):
        try:
            value = value[part]
        except (KeyError, TypeError):
            return location[: depth + (error["type"] == "missing")]
    return location


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _mistake(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "this field is required"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {_shown(error['input'])}"
    if kind in _LIMITS:
        name, sentence = _LIMITS[kind]
        return f"{sentence.format(limit=context[name])}, not {_shown(error['input'])}"
    if kind == "string_pattern_mismatch":
        expected = _PATTERNS[context["pattern"]]
        return f"{expected}, not {_shown(error['input'])}"
    if kind in ("enum", "literal_error"):
        return _unknown_choice(error["input"], context["expected"])
    return error["msg"].removeprefix("Value error, ")


def _unknown_choice(value: object, expected: str) -> str:
    *others, last = re.findall(r"'([^']*)'", expected)
    choices = f"{', '.join(others)} or {last}" if others else last
    close = _closest(str(value), [*others, last])
    hint = f", did you mean {close}?" if close and others else ""
    return f"must be {choices}, not {_shown(value)}{hint}"


def _closest(wanted: str, known: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(wanted.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_field(location: Sequence[str | int]) -> str:
    elsewhere = _elsewhere(location)
    if elsewhere:
        return f"unknown field, did you mean {elsewhere}?"
    known = _known_fields(location[:-1])
    close = _closest(str(location[-1]), known)
    if close:
        return f"unknown field, did you mean {close}?"
    return f"unknown field; known here are {', '.join(known)}"


def _elsewhere(location: Sequence[str | int]) -> str | None:
    """Where a manifest has a field of just this name.

    Rather in a block that every job has, below where it was written, and near to the top.
    """
    parent, name = _path(location[:-1]), location[-1]
    found = [place for place in _places("", DistributedTrainingJob) if place[0] == name]
    nearest = min(
        found,
        key=lambda place: (place[2], not place[1].startswith(f"{parent}."), place[1].count(".")),
        default=None,
    )
    return nearest and nearest[1]


def _places(
    prefix: str, model: type[BaseModel], optional: bool = False
) -> Iterator[tuple[str, str, bool]]:
    """Name and path of every field that a user may write, and whether its block may be missing.

    Those of items of lists, which have no path of their own, are left out.
    """
    for own, field in model.model_fields.items():
        name = field.alias or own
        yield name, prefix + name, optional
        below = _model_in(field.annotation)
        if below is not None and below is not JobStatus and not _is_list(field.annotation):
            yield from _places(f"{prefix}{name}.", below, optional or field.default is None)


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return origin in (tuple, list) or any(map(_is_list, get_args(annotation)))


def _known_fields(location: Iterable[str | int]) -> list[str]:
    """The names that the type at `location` has for its fields."""
    model: type[BaseModel] = DistributedTrainingJob
    for part in location:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                model = _model_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is about: itself, an item of a list, a member of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
