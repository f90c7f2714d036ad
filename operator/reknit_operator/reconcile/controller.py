"""The loop: takes keys from the queue and brings each job one pass further."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from pydantic import ValidationError

from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import Kind, Reason, Role
from reknit_operator.reconcile.apply import NameTakenError, apply, event_object
from reknit_operator.reconcile.cache import Cache, JobKey
from reknit_operator.reconcile.client import ApiError, ConflictError, NotFoundError, ObjectClient
from reknit_operator.reconcile.coordinator import read_token
from reknit_operator.reconcile.decide import decide
from reknit_operator.reconcile.observe import observe, owned_by, parse_pod
from reknit_operator.reconcile.observed import Observed, Ref
from reknit_operator.reconcile.plan import JobEvent, Plan
from reknit_operator.reconcile.poll import Poller
from reknit_operator.reconcile.queue import KeyedQueue

logger = logging.getLogger(__name__)

NUM_WORKERS: Final = 8


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _unnoticed(_result: str, _seconds: float) -> None:
    return


class Controller:
    """Reconciles jobs; whoever watches the API puts changes into `cache` and keys into `queue`.

    Args:
        client: reads and writes objects.
        cache: the objects.
        queue: the jobs to look at.
        poller: asks coordinators.
        options: settings that end up in pods.
        new_token: makes a token for a job that has none.
        now: the time of day.
        passed: told of every pass: its result (success, conflict or error) and its seconds.
    """

    def __init__(
        self,
        client: ObjectClient,
        cache: Cache,
        queue: KeyedQueue[JobKey],
        poller: Poller,
        *,
        options: BuildOptions,
        new_token: Callable[[], str],
        now: Callable[[], datetime] = _utc_now,
        passed: Callable[[str, float], None] = _unnoticed,
    ) -> None:
        self._client = client
        self._cache = cache
        self._queue = queue
        self._poller = poller
        self._options = options
        self._new_token = new_token
        self._now = now
        self._passed = passed
        self._written: dict[JobKey, datetime] = {}

    async def run(self, num_workers: int = NUM_WORKERS) -> None:
        """Works until cancelled; a job that takes long keeps one worker and no other job busy."""
        async with asyncio.TaskGroup() as group:
            for index in range(num_workers):
                group.create_task(self._work(), name=f"reconcile {index}")

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self._handle(key)
            finally:
                self._queue.done(key)

    async def _handle(self, key: JobKey) -> None:
        started, result = monotonic(), "success"
        try:
            await self.reconcile(key)
        except (ConflictError, NotFoundError):
            # The cache is behind; the change that it lacks will come by itself.
            self._queue.retry(key)
            result = "conflict"
        except Exception as error:
            wait = self._queue.retry(key)
            name, seconds = "/".join(key), wait.total_seconds()
            logger.warning("Job %s: %s; trying again in %.2f s", name, error, seconds)
            logger.debug("Job %s", name, exc_info=True)
            result = "error"
            await self._complain(key, error)
        else:
            self._queue.forget(key)
        self._passed(result, monotonic() - started)

    async def _complain(self, key: JobKey, error: Exception) -> None:
        """Tells the user why nothing happens, if it is something that a user can change."""
        job = self._cache.job(key)
        if job is None or not isinstance(error, ApiError | NameTakenError | ExceptionGroup):
            return
        with suppress(ApiError, OSError):
            sentences = getattr(error, "exceptions", (error,))
            message = "; ".join(dict.fromkeys(str(sentence) for sentence in sentences))
            complaint = JobEvent("Warning", Reason.RECONCILE_FAILED, message)
            await self._client.record_event(event_object(complaint, job))

    async def reconcile(self, key: JobKey) -> None:
        """One pass over one job."""
        job = self._cache.job(key)
        if job is None:
            self._poller.forget(key)
            self._written.pop(key, None)
            return
        try:
            observed = observe(
                job,
                self._cache.children(key),
                options=self._options,
                new_token=self._new_token(),
                coordinator=self._poller.report(key),
                written=self._written.get(key),
            )
        except ValidationError as error:
            # Nothing can be done until someone changes the object, and then it comes up again.
            logger.warning("Job %s is not understood: %s", "/".join(key), error)
            return
        now = self._now()
        plan = decide(observed, now)
        self._follow(key, observed)
        if ends_coordinator(plan, observed):
            # It may know more than it did at the last poll, and cannot be asked again.
            await self._poller.ask(key)
            observed = replace(observed, coordinator=self._poller.report(key))
            plan = decide(observed, now)
        if await apply(plan, job, self._client, self._cache):
            self._written[key] = now
        if plan.requeue_after is not None:
            self._queue.add(key, plan.requeue_after)
        untold = [ref.name for ref in plan.gone if not await self._confirm_gone(key, ref)]
        if untold:
            names = ", ".join(untold)
            raise OSError(f"the coordinator could not be told that {names} cannot come back")

    async def _confirm_gone(self, key: JobKey, ref: Ref) -> bool:
        """Tells the coordinator that a pod is gone, unless the cache was wrong about it.

        False if the coordinator did not answer, or still hears from the pod.
        """
        with suppress(NotFoundError):
            pod = parse_pod(await self._client.get(ref))
            if pod is None or not pod.stopped:
                return True
        if not await self._poller.confirm_gone(key, ref.name):
            return False
        await self._poller.ask(key)
        return True

    def _follow(self, key: JobKey, observed: Observed) -> None:
        """Polls the coordinator of the highest incarnation that has an address."""
        token = self._token(key, observed.job)
        pods = [
            pod
            for pod in observed.pods
            if pod.role == Role.COORDINATOR and pod.address and not pod.ended
        ]
        if pods and token is not None:
            self._poller.follow(key, max(pods, key=lambda pod: pod.incarnation).address, token)
        elif observed.job.status.completion_time is not None:
            self._poller.forget(key)

    def _token(self, key: JobKey, job: DistributedTrainingJob) -> str | None:
        for child in self._cache.children(key):
            if child["kind"] == Kind.SECRET and owned_by(child, job.metadata.uid):
                return read_token(child)
        return None


def ends_coordinator(plan: Plan, observed: Observed) -> bool:
    """Whether a coordinator that still runs is about to be deleted."""
    running = {pod.ref for pod in observed.pods if pod.role == Role.COORDINATOR and not pod.ended}
    return any(gone.ref in running and not gone.force for gone in plan.deletes)
