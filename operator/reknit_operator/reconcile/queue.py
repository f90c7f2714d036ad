"""A queue of keys: each key waits at most once, and is never worked on twice at a time."""

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from datetime import timedelta
from itertools import count
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY: Final = timedelta(milliseconds=50)
LAST_RETRY: Final = timedelta(seconds=60)


class KeyedQueue(Generic[Key]):
    """Keys to be looked at, for one event loop.

    Adding a key that waits already changes nothing, unless it asks for an earlier time. A key added
    while it is worked on comes up again afterwards, so nothing that happened meanwhile is missed.
    """

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._queued: dict[Key, float] = {}
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = count()
        self._retries: dict[Key, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wakeup = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are ready; those that wait for their time are not counted."""
        return len(self._ready)

    def age(self, now: float) -> float:
        """Seconds that the first of the ready keys has waited until `now`, a time of the loop."""
        return now - self._queued[self._ready[0]] if self._ready else 0.0

    def add(self, key: Key, after: timedelta = timedelta(0)) -> None:
        """Has `key` looked at, at once or after a while."""
        if after > timedelta(0):
            self._schedule(key, after)
        elif key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._due.pop(key, None)
            self._queued[key] = asyncio.get_running_loop().time()
            self._ready.append(key)
            self._wakeup.set()

    async def get(self) -> Key:
        """The key that has been ready for longest; `done` must follow."""
        while not self._ready:
            self._wakeup.clear()
            await self._wakeup.wait()
        key = self._ready.popleft()
        del self._queued[key]
        self._active.add(key)
        return key

    def done(self, key: Key) -> None:
        """Ends the work on `key`; it comes up again if it was added meanwhile."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def retry(self, key: Key) -> timedelta:
        """Has `key` looked at after a wait that doubles with each retry; returns the wait."""
        attempt = self._retries.get(key, 0)
        self._retries[key] = attempt + 1
        wait = min(FIRST_RETRY * 2.0 ** min(attempt, 16), LAST_RETRY)
        self._schedule(key, wait)
        return wait

    def forget(self, key: Key) -> None:
        """Starts the waits of `key` anew; its work went well."""
        self._retries.pop(key, None)

    def _schedule(self, key: Key, after: timedelta) -> None:
        due = asyncio.get_running_loop().time() + after.total_seconds()
        if key in self._queued or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Entries whose time was moved or taken back stay in the heap until they come up.
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._heap:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._heap[0][0], self._release)

    def _release(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._set_timer()
