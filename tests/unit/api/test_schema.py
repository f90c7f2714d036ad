"""From pydantic's schema to a structural one."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from reknit.protocol.base import Json
from reknit_operator.api.base import Duration, Figure, Open, Part, Time, keyed_by
from reknit_operator.api.schema import structural


class Colour(StrEnum):
    """What to paint with."""

    RED = "Red"
    BLUE = "Blue"


class Inner(Part):
    """An inner part."""

    size: Annotated[int, Field(ge=0, le=2**40)] = 1
    """How large
    it is."""
    label: str | None = None


class Free(Open):
    name: str


def schema_of(annotation, default=...):
    model = type(
        "Model",
        (Part,),
        {"__annotations__": {"field": annotation}} | ({} if default is ... else {"field": default}),
    )
    return structural(model)["properties"]["field"]


def test_references_are_resolved_and_titles_left_out():
    assert schema_of(Inner) == {
        "description": "An inner part.",
        "type": "object",
        "properties": {
            "size": {
                "description": "How large it is.",
                "type": "integer",
                "minimum": 0,
                "maximum": 2**40,
                "format": "int64",
                "default": 1,
            },
            "label": {"type": "string"},
        },
    }


def test_an_object_with_a_default_gets_it_complete():
    assert schema_of(Inner, Inner(size=1))["default"] == {"size": 1}


def test_null_disappears():
    assert schema_of(Inner | None, None) == schema_of(Inner)


def test_choices():
    assert schema_of(Colour, Colour.BLUE) == {
        "description": "What to paint with.",
        "type": "string",
        "enum": ["Red", "Blue"],
        "default": "Blue",
    }
    assert schema_of(Literal["Only"]) == {"type": "string", "enum": ["Only"]}


def test_lists_are_atomic_unless_keyed():
    assert schema_of(tuple[str, ...], ()) == {
        "type": "array",
        "items": {"type": "string"},
        "x-kubernetes-list-type": "atomic",
        "default": [],
    }
    keyed = Annotated[tuple[Free, ...], Field(json_schema_extra=keyed_by("name"))]
    found = schema_of(keyed)
    assert found["x-kubernetes-list-type"] == "map"
    assert found["x-kubernetes-list-map-keys"] == ["name"]


def test_open_parts_and_free_values_keep_unknown_fields():
    assert schema_of(Free)["x-kubernetes-preserve-unknown-fields"] is True
    assert schema_of(dict[str, Json]) == {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    assert schema_of(dict[str, int]) == {
        "type": "object",
        "additionalProperties": {"type": "integer", "format": "int64"},
    }


def test_scalars_of_our_own_are_texts():
    assert schema_of(Duration, timedelta(minutes=90))["default"] == "1h30m"
    assert schema_of(Duration)["type"] == "string"
    assert schema_of(Figure)["type"] == "string"
    assert schema_of(Time)["format"] == "date-time"
