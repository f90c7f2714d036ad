"""Keeps a cache up to date by list and watch, and queues the jobs that change."""

import logging

from reknit_operator.constants import LABEL_MANAGED_BY, MANAGER, Kind
from reknit_operator.reconcile.cache import Cache, JobKey
from reknit_operator.reconcile.client import ExpiredError, ObjectClient, WatchingClient
from reknit_operator.reconcile.queue import KeyedQueue

logger = logging.getLogger(__name__)


async def load(kind: Kind, client: ObjectClient, cache: Cache, queue: KeyedQueue[JobKey]) -> str:
    """Lists all objects of one kind; returns the resource version to `follow` from.

    Every kind must be loaded before the first job is looked at: to an operator that knows a job but
    not yet its pods, all of them would seem to be missing.
    """
    labels = None if kind is Kind.JOB else {LABEL_MANAGED_BY: MANAGER}
    listed = await client.list(kind, labels=labels)
    for key in cache.replace(kind, listed):
        queue.add(key)
    return listed.resource_version


async def follow(
    kind: Kind, client: WatchingClient, cache: Cache, queue: KeyedQueue[JobKey], *, after: str
) -> None:
    """Follows all objects of one kind from a resource version on, until nobody answers.

    Raises:
        OSError: nobody answers any more.
    """
    while True:
        try:
            async for event in client.watch(kind, after=after):
                changed = cache.handle(event)
                if changed is not None:
                    queue.add(changed)
        except ExpiredError:
            logger.info("The watch of %s fell behind, listing again", kind)
        after = await load(kind, client, cache, queue)
