"""The object store: what an API server does for the operator, in memory, for one event loop."""

import asyncio
import copy
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from reknit_operator.constants import Kind
from reknit_operator.reconcile.client import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    NotFoundError,
    Object,
    ObjectList,
    WatchEvent,
)
from reknit_operator.reconcile.observed import Ref

MAX_CHANGES: Final = 4096
"""Changes kept for watches; one that falls further behind has to list again."""
_MAX_EVENTS: Final = 4096
_GRACE: Final = 30


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ObjectStore:
    """Objects with resource versions, UIDs, owners, graceful deletion of pods, and watches.

    Every object handed in or out is a copy. Deleting an owner deletes what it controls. A pod is
    only marked by `delete`; whoever runs it calls `finalize` once it has stopped.
    """

    def __init__(
        self, now: Callable[[], datetime] = _utc_now, *, max_changes: int = MAX_CHANGES
    ) -> None:
        self._now = now
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._version = 0
        self._changes: deque[tuple[int, WatchEvent]] = deque(maxlen=max_changes)
        self._changed = asyncio.Event()
        self.events: deque[Object] = deque(maxlen=_MAX_EVENTS)
        """What `record_event` was given, oldest first."""

    async def create(self, item: Object) -> Object:
        """Creates `item`; raises AlreadyExistsError."""
        item = copy.deepcopy(item)
        metadata = item["metadata"]
        key = (item["kind"], metadata.setdefault("namespace", "default"), metadata["name"])
        if key in self._objects:
            raise AlreadyExistsError(f"{key[0]} {key[1]}/{key[2]} already exists")
        metadata |= {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": self._now().isoformat(),
            "generation": 1,
        }
        if item["kind"] == Kind.POD:
            item["status"] = {"phase": "Pending"}
        self._write("ADDED", item)
        return copy.deepcopy(item)

    async def get(self, ref: Ref) -> Object:
        """The object; raises NotFoundError."""
        return self.peek(ref)

    async def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None) -> ObjectList:
        """All objects of `kind` that carry `labels`."""
        wanted = dict(labels or {}).items()
        items = tuple(
            copy.deepcopy(item)
            for (item_kind, _, _), item in self._objects.items()
            if item_kind == kind and wanted <= item["metadata"].get("labels", {}).items()
        )
        return ObjectList(items, str(self._version))

    async def watch(self, kind: Kind, *, after: str) -> AsyncIterator[WatchEvent]:
        """Changes after resource version `after`, endless; raises ExpiredError."""
        reached = int(after)
        while True:
            oldest = self._changes[0][0] if self._changes else self._version + 1
            if reached < self._version and reached + 1 < oldest:
                raise ExpiredError(f"changes after {reached} are no longer kept")
            fresh = [change for change in self._changes if change[0] > reached]
            reached = self._version
            for _, event in fresh:
                if event.object["kind"] == kind:
                    yield copy.deepcopy(event)
            if reached == self._version:
                await self._changed.wait()

    async def patch_status(self, ref: Ref, status: Object, *, resource_version: str) -> Object:
        """Replaces the status; raises ConflictError if the object has changed, NotFoundError."""
        item = self._find(ref)
        if item["metadata"]["resourceVersion"] != resource_version:
            raise ConflictError(f"{ref} has changed")
        return self.set_status(ref, status)

    async def delete(self, ref: Ref, *, force: bool = False) -> None:
        """Deletes the object of this name and UID; raises NotFoundError."""
        item = self._find(ref)
        if item["kind"] != Kind.POD or force:
            self._remove(item)
        elif "deletionTimestamp" not in item["metadata"]:
            grace = item.get("spec", {}).get("terminationGracePeriodSeconds", _GRACE)
            gone = copy.deepcopy(item)
            gone["metadata"]["deletionTimestamp"] = (
                self._now() + timedelta(seconds=grace)
            ).isoformat()
            self._write("MODIFIED", gone)

    async def record_event(self, event: Object) -> None:
        """Records an event for people."""
        self.events.append(copy.deepcopy(event))

    @property
    def version(self) -> int:
        """The resource version of the newest change."""
        return self._version

    async def changed_since(self, version: int) -> None:
        """Waits until anything has changed after `version`, or `wake` is called."""
        if self._version <= version:
            await self._changed.wait()

    def wake(self) -> None:
        """Has everyone look again who waits for a change."""
        # Later waiters get an event of their own.
        self._changed.set()
        self._changed = asyncio.Event()

    def peek(self, ref: Ref) -> Object:
        """The object, for code in the same process; raises NotFoundError."""
        return copy.deepcopy(self._find(ref))

    def peek_all(self, kind: Kind) -> tuple[Object, ...]:
        """All objects of a kind, for code in the same process."""
        found = [item for (own, _, _), item in self._objects.items() if own == kind]
        return tuple(copy.deepcopy(found))

    def set_status(self, ref: Ref, status: Object) -> Object:
        """Replaces the status, whatever it was; raises NotFoundError."""
        item = copy.deepcopy(self._find(ref))
        item["status"] = copy.deepcopy(status)
        self._write("MODIFIED", item)
        return copy.deepcopy(item)

    def merge_spec(self, ref: Ref, changes: Mapping[str, Any]) -> Object:
        """Sets fields of the spec and counts a generation; raises NotFoundError."""
        item = copy.deepcopy(self._find(ref))
        item["spec"] = {**item.get("spec", {}), **changes}
        item["metadata"]["generation"] += 1
        self._write("MODIFIED", item)
        return copy.deepcopy(item)

    def finalize(self, ref: Ref) -> None:
        """Removes a pod that was being deleted and has stopped; nothing if it is gone already."""
        try:
            self._remove(self._find(ref))
        except NotFoundError:
            return

    def _find(self, ref: Ref) -> Object:
        item = self._objects.get((ref.kind, ref.namespace, ref.name))
        if item is None or (ref.uid and item["metadata"]["uid"] != ref.uid):
            raise NotFoundError(f"{ref} does not exist")
        return item

    def _remove(self, item: Object) -> None:
        metadata = item["metadata"]
        del self._objects[item["kind"], metadata["namespace"], metadata["name"]]
        self._publish("DELETED", copy.deepcopy(item))
        owned = [
            child
            for child in self._objects.values()
            if any(
                owner["uid"] == metadata["uid"]
                for owner in child["metadata"].get("ownerReferences", ())
            )
        ]
        for child in owned:
            if child["kind"] != Kind.POD:
                self._remove(child)
            elif "deletionTimestamp" not in child["metadata"]:
                gone = copy.deepcopy(child)
                gone["metadata"]["deletionTimestamp"] = self._now().isoformat()
                self._write("MODIFIED", gone)

    def _write(self, kind: str, item: Object) -> None:
        metadata = item["metadata"]
        self._publish(kind, item)
        self._objects[item["kind"], metadata["namespace"], metadata["name"]] = item

    def _publish(self, kind: Any, item: Object) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        self._changes.append((self._version, WatchEvent(kind, copy.deepcopy(item))))
        self.wake()
