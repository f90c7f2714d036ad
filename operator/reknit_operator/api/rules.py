"""What a rule is: one sentence, told by `reknit validate` and by the API server alike.

A rule holds a Python predicate and the same predicate in CEL, and says its sentence once. The
tests run both over the same cases.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from reknit_operator.api.problems import Problem


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """Something that must hold between fields."""

    scope: str
    """The object that the rule is about: a path like `spec.recovery.rules[]`, [] for each item."""
    field: str
    """The field that the problem is reported at, from `scope` on; empty for the object itself."""
    sentence: str
    """What is wrong and what to change; {name} stands for one of `values`."""
    holds: Callable[[Any], bool]
    """The predicate on the typed object at `scope`."""
    cel: str | None
    """The predicate in CEL; None where a schema cannot see what the rule is about."""
    values: Mapping[str, tuple[Callable[[Any], object], str]] = dataclasses.field(
        default_factory=dict
    )
    """What the sentence mentions, by name: how to get it in Python, and in CEL."""

    def problem(self, path: str, part: Any) -> Problem:
        """The problem of `part`, which stands at `path` and breaks this rule."""
        values = {name: value(part) for name, (value, _) in self.values.items()}
        where = ".".join(filter(None, (path, self.field)))
        return Problem(where, self.sentence.format_map(values))

    def to_cel(self) -> dict[str, str]:
        """The rule as an entry of x-kubernetes-validations."""
        assert self.cel is not None
        entry = {"rule": self.cel, **cel_message(self.sentence, self.values)}
        if self.field:
            entry["fieldPath"] = f".{self.field}"
        return entry


def cel_message(
    sentence: str, values: Mapping[str, tuple[Callable[[Any], object], str]]
) -> dict[str, str]:
    """`sentence` as a message, or as an expression that makes it if it mentions values."""
    if not values:
        return {"message": sentence}
    names = re.findall(r"{(\w+)}", sentence)
    text = re.sub(r"{\w+}", "%s", sentence.replace("%", "%%").replace("'", "\\'"))
    expressions = ", ".join(values[name][1] for name in names)
    # Joining strings with + instead would be refused: its cost cannot be estimated.
    return {"messageExpression": f"'{text}'.format([{expressions}])"}


def broken(rules: Sequence[Rule], job: BaseModel) -> list[Problem]:
    """The problems of `job` by all of `rules`, in their order."""
    return [
        rule.problem(path, part)
        for rule in rules
        for path, part in parts_at(job, rule.scope)
        if not rule.holds(part)
    ]


def parts_at(whole: BaseModel, scope: str) -> Iterator[tuple[str, Any]]:
    """Each object that `scope` stands for in `whole`, with its path; absent ones are left out."""
    found: list[tuple[str, Any]] = [("", whole)]
    for step in filter(None, scope.split(".")):
        name = step.removesuffix("[]")
        below = [(f"{path}.{name}".lstrip("."), _get(part, name)) for path, part in found]
        if step.endswith("[]"):
            below = [
                (f"{path}[{index}]", item)
                for path, items in below
                for index, item in enumerate(items or ())
            ]
        found = [(path, part) for path, part in below if part is not None]
    yield from found


def _get(part: BaseModel, alias: str) -> Any:
    fields = type(part).model_fields.items()
    name = next(name for name, info in fields if (info.alias or name) == alias)
    return getattr(part, name)
