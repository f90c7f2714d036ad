"""What is wrong with a manifest: one sentence per problem."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to change in a manifest."""

    path: str
    """The field, like spec.workers.replicas; empty for the manifest as a whole."""
    sentence: str
    """What is wrong and what to change, without a final period."""

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}" if self.path else self.sentence


class ManifestError(Exception):
    """A manifest that cannot be a job.

    Attributes:
        problems: what to change, at least one, in the order of the fields.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
