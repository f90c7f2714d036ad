"""kopf, told to watch and to do nothing else: no finalizers, annotations, peering or events."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import kopf

from reknit_operator.constants import LABEL_MANAGED_BY, MANAGER, Kind
from reknit_operator.kube.access import Access
from reknit_operator.kube.freshness import WATCH_PERIOD, Freshness
from reknit_operator.kube.resources import RESOURCES, collection_path, slim
from reknit_operator.reconcile.client import WatchEvent

Feed = Callable[[WatchEvent], None]
_CHUNK: Final = 500


def watch_paths(namespaces: Sequence[str] | None) -> dict[str, Kind]:
    """Path of every watch, and the kind that it is about."""
    where: Sequence[str | None] = (None,) if namespaces is None else namespaces
    return {
        collection_path(resource, namespace): kind
        for kind, resource in RESOURCES.items()
        for namespace in where
    }


def watch_settings() -> kopf.OperatorSettings:
    """Selectors that the server applies, and everything switched off that would write."""
    settings = kopf.OperatorSettings()
    for kind, resource in RESOURCES.items():
        if kind is not Kind.JOB:
            selector = f"{LABEL_MANAGED_BY}={MANAGER}"
            settings.watching.label_selectors[resource.plural] = selector
    settings.watching.chunk_size = _CHUNK
    settings.watching.server_timeout = int(WATCH_PERIOD.total_seconds())
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    # A missing permission is to be heard of in seconds.
    settings.networking.error_backoffs = (0.2, 0.5, 1, 2, 5)
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.queueing.idle_timeout = 2.0
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.finalizer = "reknit.dev/unused"
    return settings


def watch_registry(
    access: Access, freshness: Freshness, feed: Feed, *, stopping: Callable[[], Awaitable[None]]
) -> kopf.OperatorRegistry:
    """Handlers that hand every change to `feed`.

    Args:
        access: the way to the server.
        freshness: follows the requests.
        feed: takes a change; never waits.
        stopping: awaited when kopf ends because of a signal, before it cancels what is left.
    """
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(
            server=access.server,
            default_namespace=access.namespace,
            aiohttp_session=access.session([freshness.trace()]),
        )

    async def cleanup(**_: Any) -> None:
        await stopping()

    kopf.on.login(registry=registry)(login)
    kopf.on.cleanup(registry=registry)(cleanup)
    for kind, resource in RESOURCES.items():
        handler = _handler(kind, feed)
        kopf.on.event(
            group=resource.group,
            version=resource.version,
            plural=resource.plural,
            registry=registry,
            id=resource.plural,
        )(handler)
    return registry


def quiet_logs() -> None:
    """Kopf tells of every event; only its warnings are of interest here."""
    for name in ("kopf", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _handler(kind: Kind, feed: Feed) -> Callable[..., Awaitable[None]]:
    async def handle(event: Any, **_: Any) -> None:
        # Without a type it comes from a list.
        feed(WatchEvent(event["type"] or "ADDED", slim(dict(event["object"]), kind)))

    return handle
