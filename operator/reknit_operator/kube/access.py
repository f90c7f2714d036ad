"""The way to the API server: as a service account inside of a cluster, else by a kubeconfig."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import aiohttp
import kopf

from reknit.errors import ConfigurationError

logger = logging.getLogger(__name__)

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_AGE: Final = timedelta(minutes=1)
"""Tokens of service accounts are replaced in their file long before they expire."""
_RENEW_AGAIN: Final = timedelta(seconds=1)
"""Credentials that were refused are found anew, but not by every request of a burst."""


class Access:
    """Server, certificates and the present credentials.

    Args:
        login: finds the credentials anew; called from threads.
    """

    def __init__(self, login: Callable[[], kopf.ConnectionInfo]) -> None:
        self._login = login
        info = login()
        self.server: str = info.server.rstrip("/")
        self.namespace: str | None = info.default_namespace
        self._ssl: ssl.SSLContext = info.as_ssl_context()
        self._proxy = info.proxy_url
        self._headers = info.as_http_headers()
        self._read_at: float | None = None

    def session(self, traces: Sequence[aiohttp.TraceConfig] = ()) -> aiohttp.ClientSession:
        """A session for paths of the server; every request carries the present credentials."""
        return aiohttp.ClientSession(
            base_url=self.server,
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl),
            headers={"User-Agent": "reknit-operator"},
            middlewares=(self._authorize,),
            proxy=self._proxy,
            trace_configs=list(traces),
        )

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Adds the credentials; when they are refused, finds them anew, once."""
        await self._refresh(_TOKEN_AGE)
        request.headers.update(self._headers)
        response = await handler(request)
        if response.status != 401:
            return response
        response.release()
        await self._refresh(_RENEW_AGAIN)
        request.headers.update(self._headers)
        return await handler(request)

    async def _refresh(self, age: timedelta) -> None:
        now = asyncio.get_running_loop().time()
        if self._read_at is None:
            self._read_at = now
        if now - self._read_at > age.total_seconds():
            self._read_at = now
            self._headers = (await asyncio.to_thread(self._login)).as_http_headers()


def find_access() -> Access:
    """The service account of this pod; outside of pods the current context of the kubeconfig.

    Raises:
        ConfigurationError: there is neither of both.
    """
    return Access(_in_cluster if (_ACCOUNT / "token").is_file() else _by_kubeconfig)


def _in_cluster() -> kopf.ConnectionInfo:
    info = kopf.login_with_service_account(settings=kopf.OperatorSettings())
    if info is None:
        raise ConfigurationError(f"the service account's token has gone from {_ACCOUNT}")
    return info


def _by_kubeconfig() -> kopf.ConnectionInfo:
    try:
        info = kopf.login_via_client(logger=logger, settings=kopf.OperatorSettings())
    except kopf.LoginError as error:
        raise ConfigurationError(
            "no cluster is known: set KUBECONFIG to a kubeconfig with a current context"
        ) from error
    if info is None:
        raise ConfigurationError("a kubeconfig is read by the package kubernetes, install it")
    return info
