"""The user's training function: finding it, and building the configuration that it is called with.

Imports no torch; the user's own module may.
"""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cached_property
from types import ModuleType
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import ErrorDetails

from reknit.errors import ConfigurationError
from reknit.protocol.base import Json

FUNCTION_PATH: Final = "spec.entrypoint.function"
CONFIG_PATH: Final = "spec.entrypoint.config"

_KINDS: Final = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}


@dataclass(frozen=True)
class UserFunction:
    """A training function, ready to be called."""

    name: str
    """`module:function`."""
    call: Callable[[Any, Any], object]
    """call(job, config); a function without a second parameter is not given the configuration."""
    config_type: Any
    """A dataclass or pydantic model; `dict` when the function takes the configuration as it is;
    None when it takes none."""

    def problems(self, values: Mapping[str, Json]) -> list[str]:
        """One sentence, with the field's path, for everything wrong with a configuration."""
        return self._checked(values)[1]

    def build_config(self, values: Mapping[str, Json]) -> Any:
        """The configuration object that `call` expects.

        Raises:
            ConfigurationError: fields are unknown, missing or of the wrong type.
        """
        config, problems = self._checked(values)
        if problems:
            raise ConfigurationError("; ".join(problems))
        return config

    @property
    def field_names(self) -> tuple[str, ...]:
        """Fields of the configuration's type; empty where it has none, or is no type of its own."""
        return tuple(_fields(self.config_type) or ())

    def describe(self, config: Any) -> dict[str, Json]:
        """A built configuration as plain JSON, defaults included."""
        if self.config_type is None:
            return {}
        if self.config_type is dict:
            return dict(config)
        described = self._adapter.dump_python(config, mode="json", by_alias=True, fallback=str)
        return dict(described)

    def _checked(self, values: Mapping[str, Json]) -> tuple[Any, list[str]]:
        if self.config_type is None:
            function = self.name.partition(":")[2]
            refusal = f"{CONFIG_PATH}: must be empty, as {function} takes no configuration"
            return None, [refusal] if values else []
        if self.config_type is dict:
            return dict(values), []
        # Pydantic drops unknown fields of dataclasses silently, so they are found here.
        problems = list(_unknown_fields(self.config_type, values, CONFIG_PATH))
        try:
            return self._adapter.validate_python(dict(values)), problems
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            # What pydantic forbids by `extra` has been named above, with a suggestion.
            extra = {"extra_forbidden", "unexpected_keyword_argument"}
            problems += [_sentence(detail) for detail in found if detail["type"] not in extra]
            return None, problems

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.config_type)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise ConfigurationError(
                f"{CONFIG_PATH}: {self.config_type.__qualname__} has a field whose type no "
                f"manifest can set ({reason})"
            ) from error


def resolve(name: str) -> UserFunction:
    """Imports `module:function`.

    Raises:
        ConfigurationError: the name is malformed, there is no such module or function, or it
            cannot be called as function(job, config).
        Exception: whatever the user's module raises when it is imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigurationError(f"{FUNCTION_PATH}: must be module:function, not {name!r}")
    module = _import(module_name)
    function = getattr(module, attribute, None)
    if function is None:
        near = _suggestion(
            attribute, [key for key, value in vars(module).items() if callable(value)]
        )
        raise ConfigurationError(
            f"{FUNCTION_PATH}: module {module_name!r} has no function {attribute!r}{near}"
        )
    if not callable(function):
        raise ConfigurationError(f"{FUNCTION_PATH}: {name} is no function")
    parameters = _positional_parameters(function, name)
    if len(parameters) == 1:
        return UserFunction(name, lambda job, _config: function(job), None)
    return UserFunction(name, function, _config_type(function, parameters[1], module))


def _import(name: str) -> ModuleType:
    try:
        # Unlike importlib's function, this leaves no frame in the tracebacks of users.
        __import__(name)
        return sys.modules[name]
    except ModuleNotFoundError as error:
        # A module that the user's module misses is the user's error, with the user's traceback.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        near = _suggestion(name, [module.name for module in pkgutil.iter_modules()])
        raise ConfigurationError(
            f"{FUNCTION_PATH}: there is no module {name!r} beside the manifest or installed{near}"
        ) from error


def _positional_parameters(function: Callable[..., object], name: str) -> list[inspect.Parameter]:
    """The one or two parameters that `function` is called with."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    everything = list(inspect.signature(function).parameters.values())
    parameters = [parameter for parameter in everything if parameter.kind in positional]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    keyword_only = [
        parameter
        for parameter in everything
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    if not parameters or len(required) > 2 or keyword_only:
        raise ConfigurationError(f"{FUNCTION_PATH}: {name} cannot be called as (job, config)")
    return parameters[:2]


def _config_type(
    function: Callable[..., object], parameter: inspect.Parameter, module: ModuleType
) -> Any:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        # Only this annotation is evaluated: the one of `job` may name what is not imported.
        holder = type("Annotations", (), {"__annotations__": {parameter.name: annotation}})
        namespace = getattr(inspect.unwrap(function), "__globals__", vars(module))
        try:
            annotation = get_type_hints(holder, globalns=namespace)[parameter.name]
        except NameError as error:
            raise ConfigurationError(
                f"{FUNCTION_PATH}: the type of {parameter.name!r} cannot be found ({error})"
            ) from error
    if annotation is parameter.empty or annotation is Any:
        return dict
    base = get_origin(annotation) or annotation
    if isinstance(base, type) and (is_dataclass(base) or issubclass(base, BaseModel)):
        return annotation
    if base is dict or base is Mapping:
        return dict
    raise ConfigurationError(
        f"{FUNCTION_PATH}: the type of {parameter.name!r} must be a dataclass, a pydantic model "
        "or dict"
    )


def _unknown_fields(annotation: Any, value: object, path: str) -> Iterator[str]:
    """Sentences for keys of nested mappings that name no field of the type they are for."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    known = _fields(annotation)
    if known is None:
        members = get_args(annotation)
        if isinstance(value, list) and members:
            for index, item in enumerate(value):
                yield from _unknown_fields(members[0], item, f"{path}[{index}]")
        elif isinstance(value, dict) and get_origin(annotation) is dict:
            for key, item in value.items():
                yield from _unknown_fields(members[1], item, f"{path}.{key}")
        elif isinstance(value, dict):
            # A union: only one with a single structured member says which fields there are.
            structured = [member for member in members if _fields(member) is not None]
            if len(structured) == 1:
                yield from _unknown_fields(structured[0], value, path)
        return
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        if key in known:
            yield from _unknown_fields(known[key], item, f"{path}.{key}")
        elif not _allows_extra(annotation):
            near = _suggestion(str(key), list(known), others="; known are ")
            yield f"{path}.{key}: unknown field{near}"


def _fields(annotation: Any) -> dict[str, Any] | None:
    """Name → type of the fields of a dataclass or model; None for other types."""
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, BaseModel):
        known = {}
        for name, field in annotation.model_fields.items():
            alias = field.validation_alias if isinstance(field.validation_alias, str) else None
            known[alias or name] = field.annotation
            if annotation.model_config.get("populate_by_name"):
                known[name] = field.annotation
        return known
    if is_dataclass(annotation):
        hints = get_type_hints(annotation, include_extras=True)
        return {field.name: hints[field.name] for field in fields(annotation) if field.init}
    return None


def _allows_extra(annotation: Any) -> bool:
    config = getattr(annotation, "model_config", None) or {}
    return bool(config.get("extra") == "allow")


def _sentence(detail: ErrorDetails) -> str:
    path = CONFIG_PATH + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]
    )
    if detail["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return f"{path}: this field is required"
    if detail["type"] in _KINDS:
        return f"{path}: must be {_KINDS[detail['type']]}, not {detail['input']!r}"
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.rstrip(".")
    if text.startswith("Input should be "):
        expected = text.removeprefix("Input should be ").partition(",")[0]
        return f"{path}: must be {expected}, not {detail['input']!r}"
    return f"{path}: {text}"


def _suggestion(name: str, known: list[str], others: str = "") -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f", did you mean {near[0]}?"
    return others + ", ".join(known) if others and known else ""
