"""Keeps events few: the same one is counted up, and no job floods the API server."""

import uuid
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from reknit_operator.reconcile.client import Object

MAX_ENTRIES: Final = 4096
SAME_SECONDS: Final = 600.0
"""An event that comes again within this time is the same one."""
BURST: Final = 50
"""Events that a job may have at once; then one per `REFILL_SECONDS`."""
REFILL_SECONDS: Final = 30.0

_Key: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it stands in the API."""

    name: str
    count: int
    time: float


class EventBook:
    """What has been recorded lately; times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._entries: OrderedDict[_Key, Entry] = OrderedDict()
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def note(self, event: Object, now: float) -> Entry | None:
        """The entry to write for `event`; None if its job has had too many."""
        key = _key(event)
        known = self._entries.pop(key, None)
        if not self._allow(key[0], now):
            if known is not None:
                self._entries[key] = known
            return None
        if known is not None and now - known.time < SAME_SECONDS:
            entry = replace(known, count=known.count + 1, time=now)
        else:
            name = f"{event['involvedObject']['name']}.{uuid.uuid4().hex[:16]}"
            entry = Entry(name, 1, now)
        self._entries[key] = entry
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        return entry

    def forget(self, event: Object) -> None:
        """Takes back what could not be written."""
        self._entries.pop(_key(event), None)

    def _allow(self, uid: str, now: float) -> bool:
        left, since = self._allowances.pop(uid, (float(BURST), now))
        left = min(left + (now - since) / REFILL_SECONDS, BURST)
        self._allowances[uid] = (max(left - 1, left if left < 1 else 0), now)
        while len(self._allowances) > MAX_ENTRIES:
            self._allowances.popitem(last=False)
        return left >= 1


def _key(event: Object) -> _Key:
    uid = str(event["involvedObject"]["uid"])
    return (uid, str(event["type"]), str(event["reason"]), str(event["message"]))
