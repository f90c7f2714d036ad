"""The object API as the operator needs it; implemented by the local store and by clusters."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from reknit_operator.constants import Kind
from reknit_operator.reconcile.observed import Ref

Object: TypeAlias = dict[str, Any]
"""An object as it stands in the API: apiVersion, kind, metadata, spec, status."""


class ApiError(Exception):
    """The API refused a request; the base of all answers that callers tell apart."""


class AlreadyExistsError(ApiError):
    """An object of this name exists."""


class NotFoundError(ApiError):
    """The object does not exist, or not with this UID."""


class ConflictError(ApiError):
    """The object has changed since it was read."""


class ExpiredError(ApiError):
    """A watch asked for changes that are no longer kept; list again."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change; a BOOKMARK carries only the resource version that has been reached."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


@dataclass(frozen=True, slots=True)
class ObjectList:
    """Objects of one kind as of `resource_version`."""

    items: tuple[Object, ...]
    resource_version: str


class ObjectClient(Protocol):
    """Reads and writes objects; every method may also raise OSError when nobody answers."""

    async def create(self, item: Object) -> Object:
        """Creates `item`; raises AlreadyExistsError."""
        ...

    async def get(self, ref: Ref) -> Object:
        """The object; raises NotFoundError."""
        ...

    async def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None) -> ObjectList:
        """All objects of `kind` that carry `labels`."""
        ...

    async def patch_status(self, ref: Ref, status: Object, *, resource_version: str) -> Object:
        """Replaces the status; raises ConflictError if the object has changed, NotFoundError."""
        ...

    async def delete(self, ref: Ref, *, force: bool = False) -> None:
        """Deletes the object of this name and UID; raises NotFoundError."""
        ...

    async def record_event(self, event: Object) -> None:
        """Records an event (core/v1) for people."""
        ...


class WatchingClient(ObjectClient, Protocol):
    """A client that can also follow changes."""

    def watch(self, kind: Kind, *, after: str) -> AsyncIterator[WatchEvent]:
        """Changes after resource version `after`, endless; raises ExpiredError."""
        ...
