"""What the parts of the API have in common: naming, strictness, and the scalar types."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic.alias_generators import to_camel

from reknit_operator.api import duration

INT_MAX: Final = 2**31 - 1


def keyed_by(field: str) -> dict[str, JsonValue]:
    """Schema of a list whose items are told apart by one of their fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}


class Part(BaseModel):
    """A part of the spec: immutable, camelCase in manifests, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    def to_object(self) -> dict[str, Any]:
        """The part as it stands in a manifest: plain JSON values, unset fields left out."""
        return self.model_dump(mode="json")

    @model_serializer(mode="wrap")
    def _leave_out_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # `exclude_none` would also drop the nulls that a user wrote into a free-form `config`.
        return {name: value for name, value in handler(self).items() if value is not None}


class Observed(Part):
    """A part that others write too: fields this version does not know are passed over."""

    model_config = ConfigDict(extra="ignore")


class Open(Part):
    """A part of a Kubernetes type: fields without a meaning here are kept and passed on."""

    model_config = ConfigDict(extra="allow")


def _to_seconds(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(microsecond=0)


def _render_time(time: datetime) -> str:
    return _to_seconds(time).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_duration(value: object) -> object:
    return duration.parse(value) if isinstance(value, str) else value


def _parse_figure(value: object) -> object:
    figure = float(value) if isinstance(value, str | int | float) else value
    return float(f"{figure:.6g}") if isinstance(figure, float) else figure


Time: TypeAlias = Annotated[
    AwareDatetime,
    AfterValidator(_to_seconds),
    PlainSerializer(_render_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 32}),
]
"""An instant in UTC with the resolution of the Kubernetes API: whole seconds."""

Duration: TypeAlias = Annotated[
    timedelta,
    BeforeValidator(_parse_duration),
    PlainSerializer(duration.render, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": duration.PATTERN,
            "minLength": 2,
            "maxLength": duration.MAX_LENGTH,
        }
    ),
]
"""A span of time, written like `90s`, `10m` or `1h`."""

Figure: TypeAlias = Annotated[
    float,
    BeforeValidator(_parse_figure),
    PlainSerializer(lambda figure: f"{figure:.6g}", return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 24}),
]
"""A measured number with six digits; text on the wire, since Kubernetes types have no floats."""

Count: TypeAlias = Annotated[int, Field(ge=0, le=INT_MAX)]
Text: TypeAlias = Annotated[str, Field(max_length=1024)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=253)]
