"""Keeps a cache up to date by list and watch, and queues the jobs that change."""

import logging

from reknit_operator.constants import LABEL_MANAGED_BY, MANAGER, Kind
from reknit_operator.reconcile.cache import Cache, JobKey
from reknit_operator.reconcile.client import ExpiredError, ObjectClient
from reknit_operator.reconcile.queue import KeyedQueue

logger = logging.getLogger(__name__)


async def follow(kind: Kind, client: ObjectClient, cache: Cache, queue: KeyedQueue[JobKey]) -> None:
    """Follows all objects of one kind until a list or watch fails for good.

    Raises:
        OSError: nobody answers any more.
    """
    labels = None if kind is Kind.JOB else {LABEL_MANAGED_BY: MANAGER}
    while True:
        listed = await client.list(kind, labels=labels)
        for key in cache.replace(kind, listed):
            queue.add(key)
        try:
            async for event in client.watch(kind, after=listed.resource_version):
                changed = cache.handle(event)
                if changed is not None:
                    queue.add(changed)
        except ExpiredError:
            logger.info("The watch of %s fell behind, listing again", kind)
