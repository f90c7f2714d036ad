"""Puts the operator together: kopf watches, the queue orders, the controller acts."""

import asyncio
import contextlib
import logging
import secrets
from datetime import timedelta
from typing import Final

import aiohttp
import kopf

from reknit.errors import ConfigurationError
from reknit_operator.constants import Kind
from reknit_operator.kube.access import Access
from reknit_operator.kube.answers import BusyError, RefusedError
from reknit_operator.kube.client import KubeClient
from reknit_operator.kube.freshness import Freshness
from reknit_operator.kube.lease import Election
from reknit_operator.kube.metrics import OperatorMetrics
from reknit_operator.kube.options import Options
from reknit_operator.kube.server import HealthServer
from reknit_operator.kube.watching import watch_paths, watch_registry, watch_settings
from reknit_operator.reconcile.cache import Cache, JobKey
from reknit_operator.reconcile.client import ExpiredError, NotFoundError, WatchEvent
from reknit_operator.reconcile.controller import Controller
from reknit_operator.reconcile.informer import load
from reknit_operator.reconcile.poll import Poller
from reknit_operator.reconcile.queue import KeyedQueue

logger = logging.getLogger(__name__)

_LONGEST_WAIT: Final = timedelta(seconds=30)
"""Between two attempts to list objects."""


class Operator:
    """One operator process.

    Args:
        access: the way to the API server.
        options: what to do.
    """

    def __init__(self, access: Access, options: Options) -> None:
        self._access = access
        self._options = options
        self._cache = Cache()
        self._queue = KeyedQueue[JobKey]()
        self._paths = watch_paths(options.namespaces)
        self._listed: asyncio.Queue[Kind] = asyncio.Queue()
        self._freshness = Freshness(self._paths, self._listed.put_nowait)
        self._loaded = asyncio.Event()
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()
        self._election: Election | None = None
        self._metrics = OperatorMetrics(self._cache, self._queue, self._freshness, self._leads)

    async def run(self) -> None:
        """Drives the jobs until a signal asks it to stop.

        Raises:
            ConfigurationError: the port is in use, or the cluster does not know the job's type.
            OSError: the API server does not answer, or the Lease is lost.
            ApiError: the API server refuses what is needed.
        """
        server = HealthServer(self._freshness.stale, self._metrics.text)
        async with contextlib.AsyncExitStack() as stack:
            client = KubeClient(
                self._access, self._options.namespaces, counted=self._metrics.requested
            )
            await stack.enter_async_context(client)
            await server.start(self._options.port)
            stack.push_async_callback(server.close)
            await self._win(client, stack)
            await self._check(client)
            await self._serve(client)

    def _leads(self) -> bool:
        return self._options.lease is None or (self._election is not None and self._election.leads)

    async def _win(self, client: KubeClient, stack: contextlib.AsyncExitStack) -> None:
        """Waits until this operator may act."""
        if self._options.lease is None:
            return
        namespace, name = self._options.lease
        self._election = Election(client, namespace, name, self._options.identity)
        logger.info("Standing by for the Lease %s/%s", namespace, name)
        await self._election.acquire()
        stack.push_async_callback(self._election.release)

    async def _check(self, client: KubeClient) -> None:
        """Asks for jobs, as kopf would wait silently for a type that there is not."""
        path = next(path for path, kind in self._paths.items() if kind is Kind.JOB)
        try:
            await client.call("GET", str(Kind.JOB), path, query={"limit": "1"})
        except NotFoundError:
            raise ConfigurationError(
                "the cluster does not know DistributedTrainingJobs; install the chart, or "
                "`kubectl apply` the file in crds/"
            ) from None

    async def _serve(self, client: KubeClient) -> None:
        options = self._options
        registry = watch_registry(self._access, self._freshness, self._feed, stopping=self._halt)
        self._freshness.start()
        kopf_stop = asyncio.Event()
        watching = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=watch_settings(),
                clusterwide=options.namespaces is None,
                namespaces=options.namespaces or (),
                # Else kopf asks for the name of the user, which images need not know. A string is
                # all that its type stands for, and kopf does not export that.
                identity=options.identity,  # type: ignore[arg-type]
                stop_flag=kopf_stop,
            ),
            name="kopf",
        )
        session = aiohttp.ClientSession()
        poller = Poller(session, self._queue.add)
        controller = Controller(
            client,
            self._cache,
            self._queue,
            poller,
            options=options.build,
            new_token=lambda: secrets.token_urlsafe(32),
            passed=self._metrics.passed,
        )
        parts = [
            asyncio.create_task(self._act(controller), name="controller"),
            asyncio.create_task(self._compare(client), name="comparison"),
            asyncio.create_task(self._stop.wait(), name="stop"),
        ]
        if self._election is not None:
            parts.append(asyncio.create_task(self._keep(self._election), name="lease"))
        logger.info("Serving %s", ", ".join(options.namespaces or ("all namespaces",)))
        try:
            await asyncio.wait({watching, *parts}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # First nobody acts any more, then nobody watches.
            for part in parts:
                part.cancel()
            results = await asyncio.gather(*parts, return_exceptions=True)
            await poller.close()
            await session.close()
            self._stopped.set()
            kopf_stop.set()
            await asyncio.wait({watching})
        for result in results:
            if isinstance(result, Exception):
                raise result
        if (error := watching.exception()) is not None:
            raise RefusedError(f"the watches have ended: {error}") from error

    async def _halt(self) -> None:
        """Kopf has been told to stop by a signal: the rest stops before it does."""
        self._stop.set()
        await self._stopped.wait()

    def _feed(self, event: WatchEvent) -> None:
        if event.object["kind"] == Kind.JOB:
            if event.type == "DELETED":
                self._metrics.forgot(event.object["metadata"]["uid"])
            else:
                self._metrics.saw(event.object)
        key = self._cache.handle(event)
        if key is not None:
            self._queue.add(key)

    async def _compare(self, client: KubeClient) -> None:
        """Lists what kopf has listed: for the first time, and whenever a watch had been broken.

        kopf's own list says nothing of objects that were deleted meanwhile.
        """
        missing = set(Kind)
        while True:
            kind = await self._listed.get()
            wait = 1.0
            while True:
                try:
                    await load(kind, client, self._cache, self._queue)
                    break
                except (OSError, BusyError, ExpiredError) as error:
                    logger.warning("The %ss cannot be listed yet: %s", kind, error)
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT.total_seconds())
            missing.discard(kind)
            if not missing:
                self._loaded.set()

    async def _act(self, controller: Controller) -> None:
        """Looks at jobs once everything is known: a pod not yet heard of would seem missing."""
        await self._loaded.wait()
        await controller.run()

    async def _keep(self, election: Election) -> None:
        await election.keep()
        raise ConnectionError("another operator holds the Lease")
