"""Keeps the last report of every running job's coordinator."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import aiohttp

from reknit.protocol.status import CoordinatorStatus
from reknit_operator.reconcile.cache import JobKey
from reknit_operator.reconcile.coordinator import CoordinatorClient

PERIOD: Final = timedelta(seconds=2)


class Poller:
    """One task per job that has a coordinator; tells of changes that decisions depend on."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        changed: Callable[[JobKey], None],
        *,
        period: timedelta = PERIOD,
    ) -> None:
        self._session = session
        self._changed = changed
        self._period = period.total_seconds()
        self._tasks: dict[JobKey, asyncio.Task[None]] = {}
        self._targets: dict[JobKey, tuple[str, str]] = {}
        self._reports: dict[JobKey, CoordinatorStatus] = {}

    def report(self, key: JobKey) -> CoordinatorStatus | None:
        """The last answer, however old; its incarnation says whose it was."""
        return self._reports.get(key)

    def follow(self, key: JobKey, address: str, token: str) -> None:
        """Polls the coordinator at this address from now on, and no other one of the job."""
        if self._targets.get(key) == (address, token):
            return
        self._stop(key)
        self._targets[key] = (address, token)
        client = CoordinatorClient(self._session, address, token)
        name = f"poll {key[0]}/{key[1]}"
        self._tasks[key] = asyncio.create_task(self._poll(key, client), name=name)

    async def ask(self, key: JobKey) -> None:
        """Gets a report now, if the job's coordinator answers."""
        if (target := self._targets.get(key)) is not None:
            report = await CoordinatorClient(self._session, *target).status()
            if report is not None:
                self._reports[key] = report

    async def confirm_gone(self, key: JobKey, pod: str) -> bool:
        """Tells the job's coordinator that no process of a pod is left; whether it has heard."""
        target = self._targets.get(key)
        if target is None:
            return False
        return await CoordinatorClient(self._session, *target).confirm_gone(pod)

    def forget(self, key: JobKey) -> None:
        """Ends the polling of a job and drops its report."""
        self._stop(key)
        self._reports.pop(key, None)

    async def close(self) -> None:
        """Ends all polling."""
        tasks = list(self._tasks.values())
        for key in list(self._tasks):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, key: JobKey) -> None:
        self._targets.pop(key, None)
        if task := self._tasks.pop(key, None):
            task.cancel()

    async def _poll(self, key: JobKey, client: CoordinatorClient) -> None:
        while True:
            report = await client.status()
            if report is not None:
                before = self._reports.get(key)
                self._reports[key] = report
                if before is None or _essence(before) != _essence(report):
                    self._changed(key)
            await asyncio.sleep(self._period)


def _essence(report: CoordinatorStatus) -> tuple[object, ...]:
    """What a decision may depend on; steps and losses move all the time and do not count."""
    return (
        report.incarnation,
        report.phase,
        report.generation,
        report.missing,
        report.promotions,
        report.conclusion,
    )
