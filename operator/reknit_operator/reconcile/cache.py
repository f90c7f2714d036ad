"""The objects that watches have told of, indexed by job."""

from collections import OrderedDict
from typing import Final, TypeAlias

from reknit_operator.constants import LABEL_JOB, Kind
from reknit_operator.reconcile.client import Object, ObjectList, WatchEvent

JobKey: TypeAlias = tuple[str, str]
"""Namespace and name of a job."""

_NUM_TOMBSTONES: Final = 8192


def job_key(item: Object) -> JobKey | None:
    """The job that `item` is or belongs to."""
    metadata = item["metadata"]
    name = metadata["name"]
    if item["kind"] != Kind.JOB:
        name = metadata.get("labels", {}).get(LABEL_JOB)
    return (metadata.get("namespace", ""), name) if name else None


class Cache:
    """Jobs and their children as last seen; the newest version of each object wins.

    What the operator itself has just written is put in at once. Otherwise a watch that lags behind
    would show it a world in which its own last steps are missing.
    """

    def __init__(self) -> None:
        self._jobs: dict[JobKey, Object] = {}
        self._children: dict[JobKey, dict[tuple[str, str], Object]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    def job(self, key: JobKey) -> Object | None:
        """The job object."""
        return self._jobs.get(key)

    def children(self, key: JobKey) -> list[Object]:
        """Objects labelled as the job's; whether it owns them is for the reader to check."""
        return list(self._children.get(key, {}).values())

    def jobs(self) -> list[Object]:
        """All job objects."""
        return list(self._jobs.values())

    def handle(self, event: WatchEvent) -> JobKey | None:
        """Takes in a change; returns the job that it concerns."""
        if event.type == "BOOKMARK":
            return None
        if event.type == "DELETED":
            return self.remove(event.object)
        return self.put(event.object)

    def replace(self, kind: Kind, listed: ObjectList) -> set[JobKey]:
        """Takes in a complete list of one kind; returns the jobs that it concerns.

        Objects that were written after the list was made are kept although they are not on it.
        """
        uids = {item["metadata"]["uid"] for item in listed.items}
        reached = int(listed.resource_version)
        gone = [
            item
            for item in self._all()
            if item["kind"] == kind
            and item["metadata"]["uid"] not in uids
            and _version(item) <= reached
        ]
        changed = [self.remove(item) for item in gone] + [self.put(item) for item in listed.items]
        return {key for key in changed if key is not None}

    def put(self, item: Object) -> JobKey | None:
        """Takes in an object unless a newer version of it, or its end, is known."""
        key, slot = job_key(item), self._slot(item)
        if key is None or item["metadata"]["uid"] in self._gone:
            return key
        shelf = self._children.setdefault(key, {}) if item["kind"] != Kind.JOB else None
        known = self._jobs.get(key) if shelf is None else shelf.get(slot)
        if known is not None and _version(known) > _version(item):
            return key
        if shelf is None:
            self._jobs[key] = item
        else:
            shelf[slot] = item
        return key

    def remove(self, item: Object) -> JobKey | None:
        """Forgets an object for good; a late word of it changes nothing any more."""
        key, slot, uid = job_key(item), self._slot(item), item["metadata"]["uid"]
        self._gone[uid] = None
        while len(self._gone) > _NUM_TOMBSTONES:
            self._gone.popitem(last=False)
        if key is None:
            return None
        if item["kind"] == Kind.JOB:
            if self._jobs.get(key, item)["metadata"]["uid"] == uid:
                self._jobs.pop(key, None)
        elif shelf := self._children.get(key):
            if slot in shelf and shelf[slot]["metadata"]["uid"] == uid:
                del shelf[slot]
            if not shelf:
                del self._children[key]
        return key

    def _all(self) -> list[Object]:
        children = [item for shelf in self._children.values() for item in shelf.values()]
        return [*self._jobs.values(), *children]

    @staticmethod
    def _slot(item: Object) -> tuple[str, str]:
        return (item["kind"], item["metadata"]["name"])


def _version(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])
