"""The base of every message: immutable, JSON on the wire."""

from typing import Final, TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue

PROTOCOL_VERSION: Final = 1
"""Raised when a message changes its meaning; peers accept this version and the one before."""

Json: TypeAlias = JsonValue


class Message(BaseModel):
    """A frozen value that one part of Reknit sends to another.

    What a later version has added is left out: operator, coordinator and agents of a running job
    are not upgraded at the same moment. A new field therefore has a default.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class Generation(Message):
    """Names one membership of the job: (incarnation, counter), ordered, never used twice.

    The incarnation belongs to a coordinator (taken by compare-and-swap in the job's status), the
    counter to its decisions.
    """

    incarnation: int
    counter: int

    def key(self) -> tuple[int, int]:
        """The ordering of generations."""
        return (self.incarnation, self.counter)

    def __str__(self) -> str:
        return f"{self.incarnation}.{self.counter}"


class Endpoint(Message):
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
