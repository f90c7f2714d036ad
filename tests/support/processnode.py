"""A node whose pods are processes of this machine, run by the kubelet of the local backend."""

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from kubeapi import Api, Object, RefusalError
from reknit_operator.constants import Kind
from reknit_operator.local.environment import HostEnvironment
from reknit_operator.local.kubelet import Kubelet
from reknit_operator.local.network import Network
from reknit_operator.local.store import ObjectStore
from reknit_operator.reconcile.client import NotFoundError
from reknit_operator.reconcile.observed import Ref


class ProcessNode:
    """Pods and Secrets of a namespace are copied into a local store, statuses back.

    Args:
        api: the cluster.
        namespace: whose pods run here.
        folder: takes logs and termination messages.
        code: where the pods find the user's modules.
    """

    def __init__(self, api: Api, namespace: str, folder: Path, code: Path) -> None:
        self._api = api
        self._namespace = namespace
        self._store = ObjectStore()
        self._network = Network()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        variables = {**os.environ, "PATH": path, "DS_ACCELERATOR": "cpu"}
        host = HostEnvironment(uuid.uuid4().hex, self._network.coordinator, variables, [code])
        self._kubelet = Kubelet(
            self._store, host, self._network, log_dir=folder, state_dir=folder, working_dir=folder
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["ProcessNode"]:
        parts = [self._kubelet.run(), self._send()]
        parts += [self._receive(kind) for kind in (Kind.SECRET, Kind.POD)]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self._network.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _receive(self, kind: Kind) -> None:
        async for change, item in self._api.changes(kind, self._namespace):
            ref = Ref(kind, self._namespace, item["metadata"]["name"])
            with contextlib.suppress(NotFoundError, RefusalError):
                if change == "DELETED":
                    await self._store.delete(ref, force=True)
                elif change == "ADDED":
                    await self._admit(kind, item)
                elif "deletionTimestamp" in item["metadata"]:
                    await self._store.delete(ref)

    async def _admit(self, kind: Kind, item: Object) -> None:
        if kind is Kind.POD:
            await self._api.bind(item)
        await self._store.create(item)

    async def _send(self) -> None:
        async for event in self._store.watch(Kind.POD, after="0"):
            pod = event.object
            with contextlib.suppress(RefusalError):
                if event.type == "DELETED":
                    name = pod["metadata"]["name"]
                    await self._api.delete(Kind.POD, self._namespace, name, grace=0)
                elif event.type == "MODIFIED":
                    await self._api.set_status(pod, pod["status"])
