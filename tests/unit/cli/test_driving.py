"""Seeing a session through, without processes."""

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from reknit.errors import ConfigurationError
from reknit.protocol.status import CoordinatorStatus, Record
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli.driving import Aborted, Interrupts, drive, start
from reknit_operator.cli.kills import Kill
from reknit_operator.cli.refusal import Refusal

GRACE = timedelta(seconds=7)
AT_ONCE = timedelta(milliseconds=1)


class Notes:
    """A display that remembers."""

    def __init__(self, *, wants_status: bool = True) -> None:
        self.wants_status = wants_status
        self.records: list[Record] = []
        self.recalled: list[Record] = []
        self.said: list[str] = []

    def recall(self, records: Sequence[Record]) -> None:
        self.recalled += records

    def show(self, records: Sequence[Record], status: CoordinatorStatus | None) -> None:
        del status
        self.records += records

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


async def run(
    session: Any, notes: Notes, *kills: Kill, interrupts: Interrupts | None = None
) -> DistributedTrainingJob:
    return await drive(
        session,
        notes,
        kills=kills,
        grace=GRACE,
        interrupts=interrupts or Interrupts(),
        period=AT_ONCE,
    )


async def test_every_record_is_shown_once_and_the_job_returned(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session, notes = make_session(records, job), Notes()
    assert await run(session, notes) is job
    assert notes.records == records
    assert notes.said == []
    assert session.closed == 1


async def test_a_rank_is_killed_once_its_step_is_done(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session, notes = make_session(records, job), Notes()
    await run(session, notes, Kill(1, 3))
    # Step 3 is the fifth record; the step is taken again later, the kill is not.
    assert session.killed == [(1, 5)]
    assert notes.said == ["--kill 1@3: rank 1 was killed after step 3"]


async def test_what_an_earlier_run_left_is_not_told_again(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session, notes = make_session(records[6:], job, before=records[:6]), Notes()
    await run(session, notes, Kill(0, 1))
    assert notes.recalled == records[:6]
    assert notes.records == records[6:]
    # Step 1 is done before the first new step is; the next look finds it so.
    assert session.killed == [(0, 8)]


async def test_a_kill_that_came_to_nothing_is_told(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session, notes = make_session(records, job), Notes()
    await run(session, notes, Kill(1, 11))
    assert session.killed == []
    assert notes.said == ["--kill 1@11: the job ended before that step"]


async def test_a_folder_that_cannot_be_written_is_told_once(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session = make_session(records, job, failures=[None, "full", "full", None, "full"])
    notes = Notes()
    assert await run(session, notes) is job
    assert notes.records == records
    assert notes.said == [
        "full; training goes on, and records are kept in memory until there is room"
    ]


async def test_the_first_interrupt_stops_with_grace(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session, notes = make_session(records, job, endless=True), Notes()
    interrupts = Interrupts()
    interrupts()
    assert await run(session, notes, interrupts=interrupts) is job
    assert session.stopped_with == GRACE
    assert "Ctrl-C again" in notes.said[0]
    assert session.closed == 1


async def test_the_second_interrupt_ends_at_once(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session = make_session(records, job, endless=True)
    forever = asyncio.Event()

    async def stop(grace: timedelta) -> None:
        interrupts()
        await forever.wait()

    session.stop = stop
    interrupts = Interrupts()
    interrupts()
    with pytest.raises(Aborted):
        await run(session, Notes(), interrupts=interrupts)
    assert session.closed == 1


async def test_signals_count_as_interrupts(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session = make_session(records, job, endless=True)
    interrupts = Interrupts()
    with interrupts.listening():
        task = asyncio.create_task(run(session, Notes(), interrupts=interrupts))
        await session.looked.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await task
    assert session.stopped_with == GRACE
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_a_session_that_breaks_is_closed(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session = make_session(records, job)

    async def status() -> None:
        raise RuntimeError("broken")

    session.status = status
    with pytest.raises(RuntimeError, match="broken"):
        await run(session, Notes())
    assert session.closed == 1


async def test_a_display_without_use_for_it_costs_no_status(
    make_session: Any, records: list[Record], job: DistributedTrainingJob
) -> None:
    session, notes = make_session(records, job), Notes(wants_status=False)

    async def status() -> None:
        raise AssertionError("nobody needs it")

    session.status = status
    assert await run(session, notes) is job
    assert notes.records == records


async def test_a_session_that_cannot_start_is_refused(
    make_session: Any, job: DistributedTrainingJob
) -> None:
    session = make_session([], job, start_error=ConfigurationError("port 9000 is in use"))
    with pytest.raises(Refusal) as refused:
        await start(session)
    assert refused.value.problems == ("port 9000 is in use",)
