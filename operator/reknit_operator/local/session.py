"""One job on this machine, driven by the real operator; what `reknit run` stands on."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp

from reknit.errors import ConfigurationError
from reknit.protocol.status import CoordinatorStatus, History
from reknit_operator.api.types import ConditionType, DistributedTrainingJob
from reknit_operator.constants import LABEL_INCARNATION, LABEL_ROLE, Kind, Role
from reknit_operator.local.history import HistoryFile
from reknit_operator.local.incarnation import IncarnationFile
from reknit_operator.local.metrics import MetricsServer
from reknit_operator.local.nursery import Nursery
from reknit_operator.local.supervisor import Supervisor
from reknit_operator.local.sweep import ENV_SESSION, kill
from reknit_operator.reconcile.client import NotFoundError, Object
from reknit_operator.reconcile.coordinator import CoordinatorClient, read_token
from reknit_operator.reconcile.observe import ref_of
from reknit_operator.reconcile.observed import Ref

_GATHER_PERIOD: Final = timedelta(milliseconds=500)
"""The coordinator is asked no more often, as answers take time from ranks on the same cores."""


class LocalSession:
    """Runs one job with local processes as its pods.

    All methods belong to one event loop, in a thread that lasts as long as the session. `close`
    ends every process; when this process dies without it, they end all the same.

    Args:
        job: a valid job; its status is not looked at.
        run_dir: takes logs, history and checkpoints; a run that is there already is continued.
        python_path: folders where the job's modules are looked for first.
        metrics_port: port of this machine for the coordinator's /metrics; None: not served.
        working_dir: where the job's processes start; default: where this one has.
        variables: environment of the job's processes; default: that of this one.
        python: interpreter of the job's processes.
        nursery: gives pods their forkservers, if it runs.
    """

    def __init__(
        self,
        job: DistributedTrainingJob,
        *,
        run_dir: Path,
        python_path: Sequence[Path],
        metrics_port: int | None = None,
        working_dir: Path | None = None,
        variables: Mapping[str, str] | None = None,
        python: str = sys.executable,
        nursery: Nursery | None = None,
    ) -> None:
        self._job = job
        self._run_dir = run_dir
        self._metrics_port = metrics_port
        self._supervisor = Supervisor(
            run_dir,
            python_path=[path.resolve() for path in python_path],
            variables=variables,
            working_dir=working_dir,
            python=python,
            nursery=nursery,
        )
        metadata = job.metadata
        self._ref = Ref(Kind.JOB, metadata.namespace, metadata.name)
        self._history: HistoryFile | None = None
        self._incarnation = IncarnationFile(run_dir / "incarnation")
        self._http: aiohttp.ClientSession | None = None
        self._gatherer: asyncio.Task[None] | None = None
        self._metrics: MetricsServer | None = None
        self._stopped = asyncio.Event()

    @property
    def session_id(self) -> str:
        """Value of REKNIT_SESSION in the environment of every process of the job."""
        return self._supervisor.session_id

    @property
    def operator_pid(self) -> int | None:
        """Process id of the operator; None while it is being started anew."""
        return self._supervisor.operator_pid

    async def start(self) -> None:
        """Starts everything and submits the job.

        Raises:
            ConfigurationError: the port for metrics is in use, or the run folder cannot be written.
        """
        try:
            if self._metrics_port is not None:
                self._metrics = MetricsServer(self._metrics_text)
                await self._metrics.start(self._metrics_port)
            try:
                self._run_dir.mkdir(parents=True, exist_ok=True)
                self._history = HistoryFile(self._run_dir / "history.jsonl")
                (self._run_dir / "session").write_text(self.session_id)
                await self._supervisor.start(
                    before_start=self._before_start, before_stop=self._before_stop
                )
            except OSError as error:
                raise ConfigurationError(
                    f"the run folder {self._run_dir} cannot be used: {error.strerror}"
                ) from error
        except BaseException:
            await self.close()
            raise
        self._http = aiohttp.ClientSession()
        await self._submit()
        self._gatherer = asyncio.create_task(self._gather(), name="history")

    def job(self) -> DistributedTrainingJob:
        """The job with its status as last seen."""
        with contextlib.suppress(NotFoundError):
            item = self._supervisor.store.peek(self._ref)
            self._job = DistributedTrainingJob.model_validate(item)
        return self._job

    def events(self) -> list[dict[str, Any]]:
        """What the operator has told so far, oldest first, as Kubernetes events."""
        return list(self._supervisor.store.events)

    def pods(self) -> tuple[Object, ...]:
        """The pods that exist."""
        return self._supervisor.store.peek_all(Kind.POD)

    async def status(self) -> CoordinatorStatus | None:
        """What the coordinator says now; None while there is none."""
        client = self._coordinator()
        return None if client is None else await client[0].status()

    def records(self, after: int) -> History:
        """The job's records from number `after` on, whichever coordinator made them."""
        if self._history is None:
            return History(records=(), next=0)
        return self._history.records(after)

    async def more_records(self, after: int) -> History:
        """The same, once there is a record of number `after`; the session must have started."""
        assert self._history is not None
        return await self._history.more(after)

    def failure(self) -> str | None:
        """What of the run folder cannot be written, in a sentence; None if everything is there."""
        file = self._history
        reason = self._incarnation.failure or (file.failure if file else None)
        return reason and f"the run folder {self._run_dir} cannot be written: {reason}"

    def num_unwritten(self) -> int:
        """Records that are in memory alone."""
        return 0 if self._history is None else self._history.num_unwritten

    async def wait(self) -> DistributedTrainingJob:
        """Waits until the job is finished, or stopped, and none of its pods runs."""
        store = self._supervisor.store
        while True:
            version = store.version
            done = self.job().status.completion_time is not None or self._stopped.is_set()
            if done and not any(_runs(pod) for pod in self.pods()):
                return self.job()
            await store.changed_since(version)

    async def stop(self, grace: timedelta) -> None:
        """Has the ranks leave at a step boundary with a checkpoint; ends them after `grace`.

        The job is then suspended unless it finished on the way.
        """
        store = self._supervisor.store
        with contextlib.suppress(NotFoundError):
            store.merge_spec(self._ref, {"suspend": True})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._at_rest(), grace.total_seconds())
        self._stopped.set()
        for pod in self.pods():
            if _runs(pod):
                await store.delete(ref_of(pod), force=True)
        store.wake()

    async def kill_rank(self, rank: int) -> bool:
        """Kills the process of `rank` with SIGKILL, by what the coordinator says now.

        Returns whether there was one; a process of another session is never touched.
        """
        status = await self.status()
        marks = {ENV_SESSION: self._supervisor.session_id}
        pids = [place.pid for place in status.ranks if place.rank == rank] if status else []
        return any(kill(pid, marks) for pid in pids if pid is not None)

    async def close(self) -> None:
        """Ends every process at once; may be called twice."""
        if self._gatherer is not None:
            self._gatherer.cancel()
            await asyncio.gather(self._gatherer, return_exceptions=True)
        await self._supervisor.close()
        if self._http is not None:
            await self._http.close()
        if self._metrics is not None:
            await self._metrics.close()
        self._incarnation.save()
        if self._history is not None:
            self._history.close()

    async def _submit(self) -> None:
        """Creates the job; a continued run goes on counting incarnations, see `_before_start`."""
        item = self._job.to_object()
        item.pop("status", None)
        await self._supervisor.store.create(item)
        last = self._incarnation.read()
        if last is not None:
            status = {"membership": {"incarnation": last}}
            self._supervisor.store.set_status(self._ref, status)

    async def _before_start(self, pod: Object) -> None:
        """Makes an incarnation outlive this process before a coordinator can act under it.

        Checkpoints and ledgers in the run folder are ordered by generation, so a later run in the
        same folder must not count from 1 again.
        """
        labels = pod["metadata"]["labels"]
        if labels.get(LABEL_ROLE) == Role.COORDINATOR:
            self._incarnation.keep(labels[LABEL_INCARNATION])

    async def _before_stop(self, pod: Object) -> None:
        """Fetches the last records of a coordinator that is about to end."""
        if pod["metadata"]["labels"].get(LABEL_ROLE) == Role.COORDINATOR:
            await self._gather_once()

    async def _gather(self) -> None:
        while True:
            await self._gather_once()
            await asyncio.sleep(_GATHER_PERIOD.total_seconds())

    async def _gather_once(self) -> None:
        self._incarnation.save()
        found = self._coordinator()
        if found is not None and self._history is not None:
            client, incarnation = found
            await self._history.gather(client, incarnation)

    def _coordinator(self) -> tuple[CoordinatorClient, int] | None:
        """The newest coordinator that runs, and its incarnation."""
        store = self._supervisor.store
        running = [
            pod
            for pod in self.pods()
            if pod["metadata"]["labels"].get(LABEL_ROLE) == Role.COORDINATOR and _runs(pod)
        ]
        secrets = store.peek_all(Kind.SECRET)
        if not running or not secrets or self._http is None:
            return None
        pod = max(running, key=_incarnation)
        address = pod["status"].get("podIP")
        if not address:
            return None
        client = CoordinatorClient(self._http, address, read_token(secrets[0]))
        return client, _incarnation(pod)

    async def _metrics_text(self) -> str | None:
        found = self._coordinator()
        return None if found is None else await found[0].metrics()

    async def _at_rest(self) -> None:
        """Waits until the operator calls the job suspended or finished, and no pod runs."""
        store = self._supervisor.store
        while True:
            version, status = store.version, self.job().status
            suspended = any(
                condition.type == ConditionType.SUSPENDED and condition.status == "True"
                for condition in status.conditions
            )
            resting = suspended or status.completion_time is not None
            if resting and not any(_runs(pod) for pod in self.pods()):
                return
            await store.changed_since(version)


def _runs(pod: Object) -> bool:
    return pod["status"]["phase"] not in ("Succeeded", "Failed")


def _incarnation(pod: Object) -> int:
    return int(pod["metadata"]["labels"][LABEL_INCARNATION])
