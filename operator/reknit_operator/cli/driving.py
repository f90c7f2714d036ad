"""Seeing a session through: records to the display, faults on demand, Ctrl-C."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

from reknit.errors import ConfigurationError
from reknit.protocol.status import CoordinatorStatus, History, Record
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli.kills import Kill, split
from reknit_operator.cli.refusal import Refusal

_T = TypeVar("_T")

PERIOD: Final = timedelta(milliseconds=500)
"""Time between two looks at the session: each takes time from ranks on the same cores."""


class Session(Protocol):
    """What a run needs of `LocalSession`."""

    async def start(self) -> None:
        """Starts everything."""
        ...

    async def status(self) -> CoordinatorStatus | None:
        """What the coordinator says now; None while there is none."""
        ...

    def records(self, after: int) -> History:
        """The job's records from number `after` on."""
        ...

    def failure(self) -> str | None:
        """What of the run folder cannot be written, in a sentence; None if everything is there."""
        ...

    def num_unwritten(self) -> int:
        """Records that are in memory alone."""
        ...

    async def wait(self) -> DistributedTrainingJob:
        """Waits until the job is finished, or stopped."""
        ...

    async def stop(self, grace: timedelta) -> None:
        """Has the ranks leave at a step boundary with a checkpoint."""
        ...

    async def kill_rank(self, rank: int) -> bool:
        """Kills the process of a rank; returns whether there was one."""
        ...

    async def close(self) -> None:
        """Ends every process at once."""
        ...


class Display(Protocol):
    """Where a person looks."""

    @property
    def wants_status(self) -> bool:
        """Whether `show` makes use of the coordinator's status."""
        ...

    def recall(self, records: Sequence[Record]) -> None:
        """Takes what happened before; nobody needs to be told."""
        ...

    def show(self, records: Sequence[Record], status: CoordinatorStatus | None) -> None:
        """Takes what is new; called again and again, also when nothing is."""
        ...

    def say(self, sentence: str) -> None:
        """Something that the records do not tell."""
        ...


class Aborted(Exception):  # noqa: N818 - a wish
    """The second Ctrl-C: end at once."""


@dataclass
class Interrupts:
    """Counts Ctrl-C and SIGTERM: the first asks for a stop, the second for an end at once."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    abort: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self) -> None:
        """One more."""
        (self.abort if self.stop.is_set() else self.stop).set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over both signals for the running loop."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def start(session: Session) -> None:
    """Starts a session.

    Raises:
        Refusal: it could not start.
    """
    try:
        await session.start()
    except ConfigurationError as error:
        raise Refusal([str(error)]) from None


async def drive(
    session: Session,
    display: Display,
    *,
    kills: Sequence[Kill],
    grace: timedelta,
    interrupts: Interrupts,
    period: timedelta = PERIOD,
) -> DistributedTrainingJob:
    """Sees a started session to its end, and returns the job with its final status.

    Raises:
        Aborted: it was ended at the second interrupt.
    """
    run = _Run(session, display, tuple(kills))
    # A continued run begins with the history of the earlier one.
    display.recall(run.fresh())
    try:
        job = await run.to_its_end(interrupts, grace, period)
    finally:
        await session.close()
    # The last records come when the pods have ended.
    display.show(run.fresh(), None)
    for kill in run.kills:
        display.say(f"--kill {kill}: the job ended before that step")
    return job


class _Run:
    def __init__(self, session: Session, display: Display, kills: tuple[Kill, ...]) -> None:
        self._session = session
        self._display = display
        self.kills = kills
        self._next = 0
        self._committed = 0
        self._told_failure = False

    def fresh(self) -> tuple[Record, ...]:
        history = self._session.records(self._next)
        self._next = history.next
        return history.records

    async def to_its_end(
        self, interrupts: Interrupts, grace: timedelta, period: timedelta
    ) -> DistributedTrainingJob:
        async with _Tasks() as tasks:
            finished = tasks.start(self._session.wait())
            stop = tasks.start(interrupts.stop.wait())
            abort = tasks.start(interrupts.abort.wait())
            stopping: asyncio.Task[None] | None = None
            while not finished.done():
                await self._look()
                awaited: set[asyncio.Task[Any]] = {finished, abort}
                if stopping is None:
                    awaited.add(stop)
                await asyncio.wait(
                    awaited, timeout=period.total_seconds(), return_when=asyncio.FIRST_COMPLETED
                )
                if abort.done():
                    raise Aborted
                if stop.done() and stopping is None:
                    self._display.say(
                        "stopping at the next step with a checkpoint; Ctrl-C again ends at once"
                    )
                    stopping = tasks.start(self._session.stop(grace))
            return finished.result()

    async def _look(self) -> None:
        records = self.fresh()
        status = await self._session.status() if self._display.wants_status else None
        self._display.show(records, status)
        self._tell_failure()
        steps = [record.step for record in records if record.kind == "step"]
        self._committed = max([self._committed, *steps])
        due, self.kills = split(self.kills, self._committed)
        for kill in due:
            killed = await self._session.kill_rank(kill.rank)
            text = "was killed" if killed else "had no process left to kill"
            self._display.say(
                f"--kill {kill}: rank {kill.rank} {text} after step {self._committed}"
            )

    def _tell_failure(self) -> None:
        """Tells once of a run folder that cannot be written; a full disk may come and go."""
        failure = self._session.failure()
        if failure is not None and not self._told_failure:
            self._told_failure = True
            self._display.say(
                f"{failure}; training goes on, and records are kept in memory until there is room"
            )


class _Tasks:
    """Starts tasks; those still running at the end of the block are cancelled and awaited."""

    def __init__(self) -> None:
        self._started: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> "_Tasks":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._started:
            task.cancel()
        await asyncio.gather(*self._started, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._started.append(task)
        return task
