"""Gathers the records of all coordinators that a job has had into one history."""

import asyncio
import logging
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from reknit.protocol.status import EventRecord, History, Record, StepRecord
from reknit_operator.reconcile.coordinator import CoordinatorClient

logger = logging.getLogger(__name__)


class HistoryFile:
    """Records in memory and, one JSON object per line, in a file that outlives the process.

    A coordinator forgets when it dies, and its successor numbers from 0. Here records have one
    numbering, a step that two coordinators tell of stands once, and an earlier run in the same
    folder comes first.

    On a full disk records stay in memory; each call of `gather` tries again to write them, in
    their order, and so does `close`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[Record] = []
        self._steps: set[tuple[int, int, int]] = set()
        self._next: dict[int, int] = {}
        self._grown = asyncio.Event()
        whole = b""
        if path.exists():
            # A process that was killed may have left half a line.
            whole = path.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                history = History.model_validate_json(b'{"records":[' + line + b'],"next":0}')
            except ValidationError:
                logger.warning("%s holds a line that is no record; it is left out", path)
                continue
            self._remember(history.records[0])
        # Without a buffer: what a full disk has not taken is known to the byte.
        self._file = path.open("ab", buffering=0)
        self._file.truncate(len(whole))
        self._unwritten = bytearray()
        self._failure: str | None = None

    def __enter__(self) -> "HistoryFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the records can still be read."""
        if not self._file.closed:
            self._write()
            self._file.close()

    @property
    def num_unwritten(self) -> int:
        """Records that are not, or not whole, in the file."""
        return self._unwritten.count(b"\n")

    @property
    def failure(self) -> str | None:
        """Why the latest records could not be written; None if all of them are in the file."""
        return self._failure

    def records(self, after: int) -> History:
        """The records from number `after` on."""
        return History(records=tuple(self._records[after:]), next=len(self._records))

    async def more(self, after: int) -> History:
        """The records from number `after` on, once there is one."""
        while len(self._records) <= after:
            await self._grown.wait()
        return self.records(after)

    async def gather(self, client: CoordinatorClient, incarnation: int) -> None:
        """Takes over what the coordinator of `incarnation` has recorded since the last time."""
        self._write()
        history = await client.history(self._next.get(incarnation, 0))
        if history is None:
            return
        # Two calls may overlap; what the other one has taken is not taken again.
        fresh = max(0, len(history.records) - (history.next - self._next.get(incarnation, 0)))
        if history.next <= self._next.get(incarnation, 0):
            return
        self._next[incarnation] = history.next
        for record in history.records[fresh:]:
            if self._remember(record):
                self._unwritten += record.model_dump_json().encode() + b"\n"
        self._write()
        self._grown.set()
        self._grown = asyncio.Event()

    def _write(self) -> None:
        """Writes what is not in the file yet, as far as there is room."""
        if self._file.closed:
            return
        try:
            while self._unwritten:
                # The last call before the disk is full may take a part, also of a line.
                written = self._file.write(self._unwritten)
                del self._unwritten[:written]
        except OSError as error:
            self._failure = error.strerror or str(error)
        else:
            self._failure = None

    def _remember(self, record: Record) -> bool:
        if isinstance(record, EventRecord):
            self._records.append(record)
            return True
        assert isinstance(record, StepRecord)
        mark = (*record.generation.key(), record.step)
        if mark in self._steps:
            return False
        self._steps.add(mark)
        self._records.append(record)
        return True
