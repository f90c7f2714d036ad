"""The loop of `reknit chaos`: waits, looks, acts, tells."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from math import inf
from pathlib import Path
from typing import Final

import aiohttp
from rich.console import Console

from reknit.protocol.status import MembershipPhase, Record
from reknit_operator.cli import rundir
from reknit_operator.cli.chaos.decide import Action, Observed, RankProcess, choose, pause
from reknit_operator.cli.chaos.hands import Hands
from reknit_operator.cli.chaos.recovery import Overcome, cost, generation_of, rows, stepped_at
from reknit_operator.cli.driving import Interrupts
from reknit_operator.cli.refusal import Refusal
from reknit_operator.cli.tables import Column, show_table
from reknit_operator.cli.words import span
from reknit_operator.local.processes import find_processes
from reknit_operator.reconcile.coordinator import CoordinatorClient

PERIOD: Final = timedelta(milliseconds=250)
"""Time between two looks: each takes time from ranks on the same cores."""


class ExitCode(IntEnum):
    """Exit statuses of `reknit chaos`."""

    OVERCOME = 0
    """The job came over everything."""
    NOT_OVERCOME = 1
    """The job made no further step after a deed, and was not at its end."""
    STOPPED = 130
    """As a shell has it for Ctrl-C."""


@dataclass(frozen=True)
class Options:
    """What is wanted."""

    seed: int
    every: timedelta
    """Mean time between two deeds."""
    actions: Sequence[Action]
    duration: timedelta | None
    """After this no further deed begins; None: as long as the job runs."""
    count: int | None
    """Number of deeds; None: no limit."""
    resume_after: timedelta
    slow_for: timedelta


def chaos(console: Console, run_dir: Path, options: Options) -> int:
    """Disturbs the job that runs in a folder until enough is done; returns the exit status.

    Raises:
        Refusal: no job runs there.
    """
    session_id = rundir.session_id(run_dir)
    if session_id is None:
        raise Refusal([f"{run_dir}: no job runs there now"])
    return asyncio.run(_Chaos(console, run_dir, session_id, options).run())


class _Over(Exception):  # noqa: N818 - nothing has gone wrong
    """The job does not run any more."""


class _Chaos:
    def __init__(self, console: Console, run_dir: Path, session_id: str, options: Options) -> None:
        self._console = console
        self._run_dir = run_dir
        self._session_id = session_id
        self._options = options
        self._history = rundir.HistoryTail(run_dir)
        self._before: list[Record] = []
        self._records: list[Record] = []
        self._overcome: list[Overcome] = []

    async def run(self) -> int:
        """From the first pause to the summary."""
        options = self._options
        self._before = self._history.fresh()
        self._records = list(self._before)
        hands = Hands(
            self._session_id, resume_after=options.resume_after, slow_for=options.slow_for
        )
        interrupts = Interrupts()
        with interrupts.listening():
            work = asyncio.create_task(self._work(hands))
            stop = asyncio.create_task(interrupts.stop.wait())
            try:
                await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (work, stop):
                    task.cancel()
                ends = await asyncio.gather(work, stop, return_exceptions=True)
                await hands.close()
        if isinstance(ends[0], Exception):
            raise ends[0]
        self._records += self._history.fresh()
        self._sum_up()
        if interrupts.stop.is_set():
            return ExitCode.STOPPED
        return ExitCode.NOT_OVERCOME if self._is_unfinished() else ExitCode.OVERCOME

    async def _work(self, hands: Hands) -> None:
        options = self._options
        due, deadline, number = time.monotonic(), inf, 0
        if options.duration is not None:
            deadline = due + options.duration.total_seconds()
        async with aiohttp.ClientSession() as http:
            try:
                while options.count is None or number < options.count:
                    due += pause(options.seed, number, options.every).total_seconds()
                    await self._wait(min(due, deadline))
                    if due >= deadline:
                        return
                    await self._one(hands, http, number, deadline)
                    number += 1
                    due = max(due, time.monotonic())
            except _Over:
                self._say("the job has ended")

    async def _one(
        self, hands: Hands, http: aiohttp.ClientSession, number: int, deadline: float
    ) -> None:
        """Does one deed as soon as one is possible, and waits until the job has come over it."""
        options = self._options
        while True:
            if time.monotonic() >= deadline:
                return
            observed = await self._observe(http)
            deed = choose(options.seed, number, options.actions, observed)
            self._look()
            generation, since = generation_of(self._records), time.time()
            if deed is not None and await hands.do(deed):
                break
            await asyncio.sleep(PERIOD.total_seconds())
        self._say(str(deed))
        seconds = None
        try:
            while seconds is None:
                await asyncio.sleep(PERIOD.total_seconds())
                self._look()
                stepped = stepped_at(self._records, since, generation, hands.calm_since)
                seconds = None if stepped is None else stepped - since
        finally:
            self._overcome.append(Overcome(deed.action, seconds))
        self._say(f"  a new step after {span(seconds)}")

    async def _observe(self, http: aiohttp.ClientSession) -> Observed:
        """The job's processes; none unless its ranks are training."""
        found = await asyncio.to_thread(find_processes, self._session_id)
        if found.coordinator is None:
            return Observed()
        client = CoordinatorClient(http, found.coordinator.address, found.coordinator.token)
        status = await client.status()
        if status is None or status.phase is not MembershipPhase.RUNNING:
            return Observed()
        ranks = [RankProcess(r.rank, r.agent, r.pid) for r in status.ranks if r.pid is not None]
        agents = {each.pod: found.agents[each.pod] for each in ranks if each.pod in found.agents}
        return Observed(tuple(ranks), agents, found.coordinator.pid, found.operator)

    def _look(self) -> None:
        """Takes up what is new in the history.

        Raises:
            _Over: the job has ended.
        """
        is_over = rundir.session_id(self._run_dir) != self._session_id
        self._records += self._history.fresh()
        if is_over:
            raise _Over

    async def _wait(self, until: float) -> None:
        while time.monotonic() < until:
            self._look()
            await asyncio.sleep(min(PERIOD.total_seconds(), max(0, until - time.monotonic())))

    def _is_unfinished(self) -> bool:
        """Whether the last deed kept the job from its last step."""
        steps = [record for record in self._records if record.kind == "step"]
        stuck = any(each.seconds is None for each in self._overcome)
        return stuck and not any(step.step == step.total_steps for step in steps)

    def _sum_up(self) -> None:
        columns = [
            Column("deed"),
            Column("number", right=True),
            Column("median", right=True),
            Column("worst", right=True),
        ]
        show_table(self._console, columns, list(rows(self._overcome)))
        found = cost(self._before, self._records[len(self._before) :])
        self._console.out(f"lost steps  {found.lost_steps}", highlight=False)
        if found.effective_ratio is not None:
            text = f"{found.effective_ratio:.3f} over {span(found.seconds)}"
            self._console.out(f"effective training time ratio  {text}", highlight=False)

    def _say(self, sentence: str) -> None:
        self._console.out(f"[{datetime.now():%H:%M:%S}] {sentence}", highlight=False)
