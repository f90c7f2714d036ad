"""Who creates the pods of a job: the operator, or a plain client."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from kubeapi import Api, Object
from reknit_operator.api.shape import parse_object
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.worker import build_worker
from reknit_operator.constants import LABEL_MANAGED_BY, Kind
from reknit_operator.kube.client import MAX_IN_FLIGHT
from reknit_operator.kube.resources import RESOURCES, collection_path

CONCURRENCY: Final = MAX_IN_FLIGHT
"""Requests at a time of the plain client: as many as the operator sends."""
_LIMIT_SECONDS: Final = 900


@dataclass(frozen=True)
class Timed:
    """From the start until all pods were there."""

    pods: int
    seconds: float

    @property
    def pods_per_second(self) -> float:
        return self.pods / self.seconds


def manifest(namespace: str, pods: int) -> Object:
    """A job with so many pods, the coordinator's among them."""
    return {
        "apiVersion": "reknit.dev/v1alpha1",
        "kind": "DistributedTrainingJob",
        "metadata": {"name": "many", "namespace": namespace},
        "spec": {
            "entrypoint": {"function": "gpt_bytes:train"},
            "batch": {"global": (pods - 1) * 8, "micro": 8},
            "workers": {"replicas": pods - 1},
        },
    }


async def by_job(api: Api, namespace: str, pods: int) -> Timed:
    """Applies a job and waits for its pods."""
    start = time.monotonic()
    await api.create(manifest(namespace, pods))
    async with asyncio.timeout(_LIMIT_SECONDS):
        while await count(api, namespace) < pods:  # noqa: ASYNC110 - a watch would cost more
            await asyncio.sleep(0.05)
    return Timed(pods, time.monotonic() - start)


async def by_plain_client(api: Api, namespace: str, pods: int) -> Timed:
    """Creates the same pods without anything else, as fast as it can."""
    made = parse_object(manifest(namespace, pods)).to_object()
    made["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    job = DistributedTrainingJob.model_validate(made)
    options = BuildOptions()
    objects = [
        build_worker(job, options, replica, attempt=1, replacements=0) for replica in range(pods)
    ]
    for item in objects:
        # Else the operator would hear of them.
        item["metadata"]["labels"][LABEL_MANAGED_BY] = "plain"
    waiting = iter(objects)

    async def work() -> None:
        for item in waiting:
            await api.create(item)

    start = time.monotonic()
    async with asyncio.timeout(_LIMIT_SECONDS):
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return Timed(pods, time.monotonic() - start)


async def count(api: Api, namespace: str) -> int:
    """Pods in a namespace."""
    path = collection_path(RESOURCES[Kind.POD], namespace)
    page: dict[str, Any] = await api.call("GET", path, limit="1")
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))
