"""The latest records of the job, numbered."""

from collections import deque
from itertools import islice
from typing import Final

from reknit.protocol.status import History, Record

NUMBERS_PER_INCARNATION: Final = 10**9
"""Each coordinator numbers from a start of its own, so a reader misses nothing at a change."""


class Ring:
    """Keeps a bounded number of records; the oldest ones are dropped first."""

    def __init__(self, incarnation: int, capacity: int = 10_000) -> None:
        self._records: deque[Record] = deque(maxlen=capacity)
        self._next = incarnation * NUMBERS_PER_INCARNATION

    def append(self, record: Record) -> None:
        """Adds the newest record."""
        self._records.append(record)
        self._next += 1

    def after(self, number: int, limit: int = 1000) -> History:
        """At most `limit` records from `number` on, or from the oldest that is still kept.

        A number beyond the end gives none; one of an earlier coordinator gives all.
        """
        oldest = self._next - len(self._records)
        start = min(max(number, oldest), self._next)
        records = tuple(islice(self._records, start - oldest, start - oldest + limit))
        return History(records=records, next=start + len(records))
