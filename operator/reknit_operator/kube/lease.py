"""Leader election: of several operators the one that holds the Lease acts."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from reknit_operator.kube.client import KubeClient
from reknit_operator.kube.resources import LEASES, collection_path
from reknit_operator.reconcile.client import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    NotFoundError,
    Object,
)

logger = logging.getLogger(__name__)

DURATION: Final = timedelta(seconds=15)
"""Others take a Lease that has not been renewed for this long."""
RENEW_WITHIN: Final = timedelta(seconds=10)
"""A holder that cannot renew for this long steps down, before others may take the Lease."""
PERIOD: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Sight:
    """A Lease as last seen changing; time in seconds of this machine's own clock.

    Clocks of different machines are never compared.
    """

    record: tuple[Any, ...]
    since: float


def look(sight: Sight | None, lease: Object | None, now: float) -> Sight:
    """What is known of the Lease after it was read at `now`."""
    spec = (lease or {}).get("spec", {})
    record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
    return sight if sight is not None and sight.record == record else Sight(record, now)


def may_take(sight: Sight, identity: str, now: float) -> bool:
    """Whether the Lease is ours, nobody's, or abandoned."""
    holder = sight.record[0]
    return holder in (None, "", identity) or now - sight.since > DURATION.total_seconds()


def claim(lease: Object | None, name: str, namespace: str, identity: str, wall: datetime) -> Object:
    """The Lease held by `identity`, renewed at `wall`; an empty identity gives it back."""
    before = (lease or {}).get("spec", {})
    changes = before.get("holderIdentity") != identity
    stamp = wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(DURATION.total_seconds()),
        "acquireTime": stamp if changes else before.get("acquireTime", stamp),
        "renewTime": stamp,
        "leaseTransitions": before.get("leaseTransitions", 0) + int(changes and bool(identity)),
    }
    metadata = (lease or {}).get("metadata") or {"name": name, "namespace": namespace}
    return {
        "apiVersion": LEASES.api_version,
        "kind": "Lease",
        "metadata": metadata,
        "spec": spec,
    }


class Election:
    """One candidate.

    Args:
        client: reads and writes the Lease.
        namespace: of the Lease.
        name: of the Lease.
        identity: of this candidate, different for each process.
        wall: the time of day, for people who look at the Lease.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._wall = wall
        self._path = collection_path(LEASES, namespace)
        self._sight: Sight | None = None
        self._renewed = 0.0
        """When the latest attempt that succeeded was begun, by this machine's own clock."""
        self.leads = False

    async def acquire(self) -> None:
        """Waits until the Lease is ours."""
        while True:
            if await self._attempt():
                self.leads = True
                return
            await asyncio.sleep(PERIOD.total_seconds())

    async def keep(self) -> None:
        """Renews the Lease; returns when it is lost, or was not renewed in time."""
        with suppress(TimeoutError):
            while True:
                # The limit holds for waits and requests too: others count from the same renewal.
                async with asyncio.timeout_at(self._renewed + RENEW_WITHIN.total_seconds()):
                    if not await self._renew():
                        break
        self.leads = False
        logger.error("The Lease %s/%s is lost", self._namespace, self._name)

    async def _renew(self) -> bool:
        """Waits until the Lease is renewed; False when someone else has it."""
        while True:
            await asyncio.sleep(PERIOD.total_seconds())
            if await self._attempt():
                return True
            if self._sight is not None and self._sight.record[0] != self._identity:
                return False

    async def release(self) -> None:
        """Gives the Lease back, so that the next one need not wait until it has run out."""
        if not self.leads:
            return
        self.leads = False
        with suppress(ApiError, OSError):
            lease = await self._read()
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                await self._write(lease, "")

    async def _attempt(self) -> bool:
        """Takes or renews the Lease if it may; whether it is ours then."""
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(RENEW_WITHIN.total_seconds() / 2):
                lease = await self._read()
                now = asyncio.get_running_loop().time()
                self._sight = look(self._sight, lease, now)
                if not may_take(self._sight, self._identity, now):
                    return False
                await self._write(lease, self._identity)
        except (ConflictError, AlreadyExistsError):
            return False
        except (ApiError, OSError, TimeoutError) as error:
            logger.warning("The Lease %s/%s: %s", self._namespace, self._name, error)
            return False
        self._renewed = begun
        return True

    async def _read(self) -> Object | None:
        try:
            found: Object = await self._client.call("GET", "Lease", f"{self._path}/{self._name}")
        except NotFoundError:
            return None
        return found

    async def _write(self, lease: Object | None, identity: str) -> None:
        wanted = claim(lease, self._name, self._namespace, identity, self._wall())
        if lease is None:
            await self._client.call("POST", "Lease", self._path, body=wanted)
        else:
            await self._client.call("PUT", "Lease", f"{self._path}/{self._name}", body=wanted)
