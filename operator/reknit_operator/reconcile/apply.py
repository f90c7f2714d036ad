"""Carries out a plan: the status first, then the children, then the events."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Final

from reknit_operator.constants import MANAGER, Kind
from reknit_operator.reconcile.cache import Cache
from reknit_operator.reconcile.client import (
    AlreadyExistsError,
    NotFoundError,
    Object,
    ObjectClient,
)
from reknit_operator.reconcile.observe import owned_by, ref_of
from reknit_operator.reconcile.plan import Delete, JobEvent, Plan

MAX_PARALLEL: Final = 16
"""Requests for one job at a time, so that a large job leaves room for others."""
_EVENT_BYTES: Final = 1024


class NameTakenError(Exception):
    """A child's name belongs to an object of someone else."""


async def apply(plan: Plan, job: Object, client: ObjectClient, cache: Cache) -> bool:
    """Carries out `plan` for `job`, and puts what was written into `cache`.

    When a step fails, the others are still tried; the next pass sees what is left.

    Returns:
        Whether the status was written.

    Raises:
        ConflictError: the job has changed since it was observed; nothing was done.
        NotFoundError: the job is gone; nothing was done.
        NameTakenError: a child's name is in use.
        ExceptionGroup: several steps failed.
    """
    if plan.status is not None:
        written = await client.patch_status(
            ref_of(job),
            plan.status.to_object(),
            resource_version=job["metadata"]["resourceVersion"],
        )
        cache.put(written)
    try:
        await _children(plan, job["metadata"]["uid"], client, cache)
    finally:
        for event in plan.events:
            await client.record_event(event_object(event, job))
    return plan.status is not None


async def _children(plan: Plan, uid: str, client: ObjectClient, cache: Cache) -> None:
    needed = [item for item in plan.creates if item["kind"] != Kind.POD]
    pods = [item for item in plan.creates if item["kind"] == Kind.POD]
    # Pods refer to the Secret, so it comes first.
    await _all([_create(item, uid, client, cache) for item in needed])
    await _all(
        [
            *(_create(item, uid, client, cache) for item in pods),
            *(_delete(gone, client) for gone in plan.deletes),
        ]
    )


async def _create(item: Object, uid: str, client: ObjectClient, cache: Cache) -> None:
    try:
        created = await client.create(item)
    except AlreadyExistsError:
        created = await client.get(ref_of(item))
        if not owned_by(created, uid):
            name = item["metadata"]["name"]
            raise NameTakenError(
                f"{item['kind']} {name} exists and does not belong to this job"
            ) from None
    cache.put(created)


async def _delete(gone: Delete, client: ObjectClient) -> None:
    try:
        await client.delete(gone.ref, force=gone.force)
    except NotFoundError:
        return


async def _all(steps: Sequence[Awaitable[None]]) -> None:
    """Runs the steps side by side; every one is tried."""
    limit = asyncio.Semaphore(MAX_PARALLEL)

    async def bounded(step: Awaitable[None]) -> None:
        async with limit:
            await step

    results = await asyncio.gather(*map(bounded, steps), return_exceptions=True)
    errors = [result for result in results if isinstance(result, Exception)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several steps failed", errors)


def event_object(event: JobEvent, job: Object) -> Object:
    """`event` of `job` as Kubernetes knows events."""
    metadata = job["metadata"]
    time = datetime.now(UTC).isoformat()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": metadata["namespace"], "generateName": f"{metadata['name']}."},
        "involvedObject": {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message.encode()[:_EVENT_BYTES].decode(errors="ignore"),
        "source": {"component": MANAGER},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
