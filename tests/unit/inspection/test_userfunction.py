"""Finding the user's function and building its configuration."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from reknit.errors import ConfigurationError
from reknit.protocol.base import Json
from reknit.userfunction import resolve

WriteModule = Callable[[str], str]

DATACLASS = """
    from dataclasses import dataclass, field
    from enum import StrEnum
    from pathlib import Path
    from typing import Literal

    class Kind(StrEnum):
        SMALL = "small"
        LARGE = "large"

    @dataclass(frozen=True, kw_only=True)
    class Schedule:
        warmup: int = 10
        rate: float = 1e-3

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        depth: int
        kind: Kind = Kind.SMALL
        data: Path = Path("data")
        activation: Literal["gelu", "relu"] = "gelu"
        schedule: Schedule = Schedule()
        stages: list[Schedule] = field(default_factory=list)
        named: dict[str, Schedule] = field(default_factory=dict)
        other: Schedule | None = None

        def __post_init__(self):
            if self.depth < 1:
                raise ValueError("depth must be at least 1")

    def train(job, config: Config):
        return (job, config)
"""


@pytest.fixture
def dataclass_module(user_module: WriteModule) -> str:
    return user_module(DATACLASS)


def test_builds_a_dataclass_with_nested_ones_and_defaults(dataclass_module: str) -> None:
    function = resolve(f"{dataclass_module}:train")
    config = function.build_config(
        {"depth": 3, "kind": "large", "schedule": {"rate": 1}, "stages": [{"warmup": 5}]}
    )
    module = sys.modules[dataclass_module]
    assert config == module.Config(
        depth=3,
        kind=module.Kind.LARGE,
        schedule=module.Schedule(rate=1.0),
        stages=[module.Schedule(warmup=5)],
    )
    assert function.call("the job", config) == ("the job", config)


def test_reads_numbers_that_yaml_takes_for_text(dataclass_module: str) -> None:
    # YAML 1.1 reads 3e-3, without a dot, as a string.
    config = resolve(f"{dataclass_module}:train").build_config(
        {"depth": 1, "schedule": {"rate": "3e-3"}}
    )
    assert config.schedule.rate == 3e-3


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({}, ["spec.entrypoint.config.depth: this field is required"]),
        (
            {"depht": 3, "depth": 3},
            ["spec.entrypoint.config.depht: unknown field, did you mean depth?"],
        ),
        (
            {"depth": 3, "unrelated": 3},
            [
                "spec.entrypoint.config.unrelated: unknown field; known are depth, kind, data, "
                "activation, schedule, stages, named, other"
            ],
        ),
        ({"depth": "four"}, ["spec.entrypoint.config.depth: must be a whole number, not 'four'"]),
        (
            {"depth": 1, "activation": "tanh"},
            ["spec.entrypoint.config.activation: must be 'gelu' or 'relu', not 'tanh'"],
        ),
        (
            {"depth": 1, "schedule": {"rat": 3}},
            ["spec.entrypoint.config.schedule.rat: unknown field, did you mean rate?"],
        ),
        (
            {"depth": 1, "stages": [{}, {"rat": 3}]},
            ["spec.entrypoint.config.stages[1].rat: unknown field, did you mean rate?"],
        ),
        (
            {"depth": 1, "named": {"first": {"rat": 3}}},
            ["spec.entrypoint.config.named.first.rat: unknown field, did you mean rate?"],
        ),
        (
            {"depth": 1, "other": {"rat": 3}},
            ["spec.entrypoint.config.other.rat: unknown field, did you mean rate?"],
        ),
        (
            {"depth": 1, "stages": [{"warmup": "x"}]},
            ["spec.entrypoint.config.stages[0].warmup: must be a whole number, not 'x'"],
        ),
        ({"depth": 0}, ["spec.entrypoint.config: depth must be at least 1"]),
    ],
)
def test_says_what_is_wrong_with_a_field(
    dataclass_module: str, values: dict[str, Json], problems: list[str]
) -> None:
    assert resolve(f"{dataclass_module}:train").problems(values) == problems


def test_lists_all_problems_in_one_error(dataclass_module: str) -> None:
    function = resolve(f"{dataclass_module}:train")
    with pytest.raises(ConfigurationError) as caught:
        function.build_config({"depth": "x", "kindd": "small", "data": 3})
    assert "config.kindd: unknown field, did you mean kind?" in str(caught.value)
    assert "config.depth: must be a whole number" in str(caught.value)
    assert "config.data: " in str(caught.value)


MODEL = """
    from pydantic import BaseModel, ConfigDict, Field

    class Config(BaseModel):
        depth: int = Field(default=4, ge=1)
        rate: float = Field(default=0.1, alias="learningRate")

    class Strict(Config):
        model_config = ConfigDict(extra="forbid")

    class Open(Config):
        model_config = ConfigDict(extra="allow")

    def train(job, config: Config): ...
    def train_strict(job, config: Strict): ...
    def train_open(job, config: Open): ...
"""


def test_builds_a_pydantic_model(user_module: WriteModule) -> None:
    config = resolve(f"{user_module(MODEL)}:train").build_config({"learningRate": 0.5})
    assert (config.depth, config.rate) == (4, 0.5)


@pytest.mark.parametrize("function", ["train", "train_strict"])
def test_refuses_unknown_fields_of_a_model_once(user_module: WriteModule, function: str) -> None:
    assert resolve(f"{user_module(MODEL)}:{function}").problems({"learningRat": 1, "depth": 0}) == [
        "spec.entrypoint.config.learningRat: unknown field, did you mean learningRate?",
        "spec.entrypoint.config.depth: must be greater than or equal to 1, not 0",
    ]


def test_passes_extra_fields_to_a_model_that_wants_them(user_module: WriteModule) -> None:
    config = resolve(f"{user_module(MODEL)}:train_open").build_config({"more": 7})
    assert config.more == 7


@pytest.mark.parametrize("signature", ["job, config", "job, config: dict", "job, config: 'Any'"])
def test_hands_over_a_plain_dictionary(user_module: WriteModule, signature: str) -> None:
    module = user_module(f"from typing import Any\ndef train({signature}): return config")
    function = resolve(f"{module}:train")
    assert function.call(None, function.build_config({"a": [1]})) == {"a": [1]}


def test_a_function_of_the_job_alone_takes_no_configuration(user_module: WriteModule) -> None:
    function = resolve(f"{user_module('def train(job): return job')}:train")
    assert function.call("the job", function.build_config({})) == "the job"
    assert function.problems({"a": 1}) == [
        "spec.entrypoint.config: must be empty, as train takes no configuration"
    ]


def test_evaluates_only_the_annotation_of_the_configuration(user_module: WriteModule) -> None:
    module = user_module(
        """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass
        class Config:
            depth: int = 2

        def train(job: NotImportedHere, config: Config) -> AlsoNotThere: ...
        """
    )
    assert resolve(f"{module}:train").build_config({}).depth == 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("train", "must be module:function, not 'train'"),
        ("{module}:", "must be module:function, not '{module}:'"),
        ("no_such_module:train", "there is no module 'no_such_module' beside the manifest"),
        (
            "{module}x:train",
            "there is no module '{module}x' beside the manifest or installed, did ",
        ),
        ("{module}:trian", "has no function 'trian', did you mean train?"),
        ("{module}:NUMBER", "{module}:NUMBER is no function"),
        ("{module}:nothing", "{module}:nothing cannot be called as (job, config)"),
        ("{module}:three", "{module}:three cannot be called as (job, config)"),
        ("{module}:keyword", "{module}:keyword cannot be called as (job, config)"),
        ("{module}:integer", "the type of 'config' must be a dataclass, a pydantic model or dict"),
        ("{module}:unknown", "the type of 'config' cannot be found"),
    ],
)
def test_says_what_is_wrong_with_the_function(
    user_module: WriteModule, name: str, sentence: str
) -> None:
    module = user_module(
        """
        NUMBER = 3
        def train(job, config): ...
        def nothing(): ...
        def three(job, config, more): ...
        def keyword(job, *, config): ...
        def integer(job, config: int): ...
        def unknown(job, config: "NoSuchType"): ...
        """
    )
    with pytest.raises(ConfigurationError) as caught:
        resolve(name.format(module=module))
    assert sentence.format(module=module) in str(caught.value)
    assert str(caught.value).startswith("spec.entrypoint.function: ")


def test_refuses_field_types_that_no_manifest_can_set(user_module: WriteModule) -> None:
    module = user_module(
        """
        from dataclasses import dataclass
        class Odd: ...
        @dataclass
        class Config:
            odd: Odd = Odd()
        def train(job, config: Config): ...
        """
    )
    with pytest.raises(ConfigurationError, match="Config has a field whose type no manifest"):
        resolve(f"{module}:train").build_config({})


def test_leaves_errors_of_the_users_module_alone(user_module: WriteModule) -> None:
    module = user_module("import a_module_that_is_missing")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        resolve(f"{module}:train")


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, reknit.userfunction; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
