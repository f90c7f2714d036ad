"""Runs the pods of an object store as local processes."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from reknit.protocol.outcome import MAX_TERMINATION_BYTES
from reknit.protocol.settings import ENV_POD_NAME
from reknit_operator.constants import LABEL_ROLE, Kind, Role
from reknit_operator.local import podstatus
from reknit_operator.local.environment import HostEnvironment, container_environment
from reknit_operator.local.network import Network
from reknit_operator.local.process import ChildProcess, open_log
from reknit_operator.local.store import ObjectStore
from reknit_operator.local.sweep import ENV_SESSION, sweep
from reknit_operator.reconcile.client import NotFoundError, Object
from reknit_operator.reconcile.observe import ref_of

logger = logging.getLogger(__name__)

Hook = Callable[[Object], Awaitable[None]]
_DEFAULT_GRACE: Final = 30


async def _nothing(_pod: Object) -> None:
    return


class Kubelet:
    """One task per pod: start, wait, stop, report.

    Like in a cluster, a pod's other processes do not outlive its first one. Pods are ready as soon
    as they run.

    Args:
        store: where pods and their Secrets are.
        host: what every process gets.
        network: gives addresses.
        log_dir: one file per pod takes its output.
        state_dir: one file per pod takes its termination message.
        working_dir: where the processes start.
        before_start: awaited before a pod's process starts.
        before_stop: awaited before a pod is told to stop.
    """

    def __init__(
        self,
        store: ObjectStore,
        host: HostEnvironment,
        network: Network,
        *,
        log_dir: Path,
        state_dir: Path,
        working_dir: Path | None = None,
        before_start: Hook = _nothing,
        before_stop: Hook = _nothing,
    ) -> None:
        self._store = store
        self._host = host
        self._network = network
        self._log_dir = log_dir
        self._state_dir = state_dir
        self._working_dir = working_dir
        self._before_start = before_start
        self._before_stop = before_stop
        self._deleted: dict[str, asyncio.Event] = {}
        self._gone: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        """Runs pods until cancelled; then kills every one that still runs."""
        listed = await self._store.list(Kind.POD)
        async with asyncio.TaskGroup() as group:
            for pod in listed.items:
                self._admit(group, pod)
            async for event in self._store.watch(Kind.POD, after=listed.resource_version):
                uid = event.object["metadata"]["uid"]
                if uid not in self._deleted and event.type == "ADDED":
                    self._admit(group, event.object)
                if uid in self._deleted and "deletionTimestamp" in event.object["metadata"]:
                    self._deleted[uid].set()
                if uid in self._gone and event.type == "DELETED":
                    self._gone[uid].set()
                    self._deleted[uid].set()

    def _admit(self, group: asyncio.TaskGroup, pod: Object) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        self._deleted[uid], self._gone[uid] = asyncio.Event(), asyncio.Event()
        group.create_task(self._life(pod), name=f"pod {name}")

    async def _life(self, pod: Object) -> None:
        """From creation to removal of one pod."""
        uid, ref = pod["metadata"]["uid"], ref_of(pod)
        try:
            with contextlib.suppress(NotFoundError):
                await self._serve(pod)
                await self._deleted[uid].wait()
            self._store.finalize(ref)
        finally:
            del self._deleted[uid], self._gone[uid]

    async def _serve(self, pod: Object) -> None:
        """Runs the process of one pod and reports how it went."""
        name, ref = pod["metadata"]["name"], ref_of(pod)
        coordinator = pod["metadata"].get("labels", {}).get(LABEL_ROLE) == Role.COORDINATOR
        address = self._network.coordinator if coordinator else self._network.take()
        pod["spec"]["nodeName"] = podstatus.NODE
        pod["status"] = {"podIP": address}
        termination_log = self._state_dir / f"{name}.termination"
        env = await self._environment(pod, termination_log)
        if env is None:
            return
        await self._before_start(pod)
        started = datetime.now(UTC)
        try:
            termination_log.touch()
            process = self._start(pod, env)
        except OSError as error:
            logger.warning("Pod %s cannot be started: %s", name, error)
            now = datetime.now(UTC)
            self._store.set_status(ref, podstatus.ended(pod, 126, "", started=started, now=now))
            return
        try:
            self._store.set_status(ref, podstatus.running(pod, address, started))
            returncode = await self._watch(pod, process)
        finally:
            # Also when this task is cancelled: nothing of the pod may go on.
            process.send(signal.SIGKILL)
            await asyncio.shield(self._reap(name, process))
        message = termination_log.read_bytes()[:MAX_TERMINATION_BYTES].decode(errors="replace")
        status = podstatus.ended(pod, returncode, message, started=started, now=datetime.now(UTC))
        self._store.set_status(ref, status)

    def _start(self, pod: Object, env: dict[str, str]) -> ChildProcess:
        command = pod["spec"]["containers"][0]["command"]
        log_file = self._log_dir / f"{pod['metadata']['name']}.log"
        with open_log(log_file) as log:
            return ChildProcess(command, env=env, output=log, working_dir=self._working_dir)

    async def _environment(self, pod: Object, termination_log: Path) -> dict[str, str] | None:
        """The container's variables once its Secrets exist; None if the pod is deleted before."""
        deleted = asyncio.create_task(self._deleted[pod["metadata"]["uid"]].wait())
        try:
            while not deleted.done():
                listed = await self._store.list(Kind.SECRET)
                secrets = {item["metadata"]["name"]: item for item in listed.items}
                try:
                    return container_environment(
                        pod, self._host, secrets=secrets, termination_log=termination_log
                    )
                except KeyError:
                    status = podstatus.waiting(pod, "CreateContainerConfigError")
                    self._store.set_status(ref_of(pod), status)
                change = asyncio.ensure_future(
                    anext(self._store.watch(Kind.SECRET, after=listed.resource_version))
                )
                await asyncio.wait({deleted, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
            return None
        finally:
            deleted.cancel()

    async def _watch(self, pod: Object, process: ChildProcess) -> int:
        """Waits for the process; stops it when its pod is deleted."""
        uid = pod["metadata"]["uid"]
        ended = asyncio.create_task(process.wait())
        deleted = asyncio.create_task(self._deleted[uid].wait())
        gone = asyncio.create_task(self._gone[uid].wait())
        try:
            await asyncio.wait({ended, deleted, gone}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            if gone.done():
                return await process.kill()
            await self._before_stop(pod)
            process.send(signal.SIGTERM)
            grace = pod["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE)
            await asyncio.wait({ended, gone}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else await process.kill()
        finally:
            for task in (ended, deleted, gone):
                task.cancel()

    async def _reap(self, name: str, process: ChildProcess) -> None:
        """Ends whatever the pod's first process has left behind."""
        await process.wait()
        marks = {ENV_SESSION: self._host.session_id, ENV_POD_NAME: name}
        num_left = await asyncio.to_thread(sweep, marks)
        if num_left:
            logger.info("Killed %d processes that pod %s left behind", num_left, name)
