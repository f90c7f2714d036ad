"""Asks a job's coordinator how things stand."""

from base64 import b64decode
from typing import Final

import aiohttp
from pydantic import ValidationError

from reknit.protocol.settings import COORDINATOR_PORT
from reknit.protocol.status import CoordinatorStatus, History
from reknit_operator.constants import TOKEN_KEY
from reknit_operator.reconcile.client import Object

TIMEOUT: Final = aiohttp.ClientTimeout(total=2)


class CoordinatorClient:
    """The HTTP interface of one coordinator."""

    def __init__(self, session: aiohttp.ClientSession, address: str, token: str) -> None:
        self._session = session
        self._base = f"http://{address}:{COORDINATOR_PORT}"
        self._headers = {"Authorization": f"Bearer {token}"}

    async def status(self) -> CoordinatorStatus | None:
        """Its membership and progress; None if it cannot be reached or understood."""
        text = await self._get("/status")
        try:
            return None if text is None else CoordinatorStatus.model_validate_json(text)
        except ValidationError:
            return None

    async def history(self, after: int) -> History | None:
        """Its records from number `after` on; None if it cannot be reached or understood."""
        text = await self._get(f"/history?after={after}")
        try:
            return None if text is None else History.model_validate_json(text)
        except ValidationError:
            return None

    async def confirm_gone(self, pod: str) -> bool:
        """Tells it that no process of a pod is left; False if it cannot be reached."""
        try:
            async with self._session.post(
                self._base + "/gone", params={"agent": pod}, headers=self._headers, timeout=TIMEOUT
            ) as response:
                return response.status == 204
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def metrics(self) -> str | None:
        """Its metrics in Prometheus' text format; None if it cannot be reached."""
        return await self._get("/metrics")

    async def _get(self, path: str) -> str | None:
        try:
            async with self._session.get(
                self._base + path, headers=self._headers, timeout=TIMEOUT
            ) as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


def read_token(secret: Object) -> str:
    """The token in a job's Secret."""
    return b64decode(secret["data"][TOKEN_KEY]).decode()
