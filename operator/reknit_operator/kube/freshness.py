"""Notices watches that have fallen silent, and lists that kopf had to make anew."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Final

import aiohttp

from reknit_operator.constants import Kind

WATCH_PERIOD: Final = timedelta(minutes=4)
"""The server ends every watch after this time, and it is opened again at once."""
STALE_AFTER: Final = 3 * WATCH_PERIOD
"""A watch that has not been opened again for so long is dead."""


class Freshness:
    """Follows kopf's requests.

    A watch that breaks for longer than the server remembers begins anew with a list. Objects that
    were deleted meanwhile are not on it, and kopf tells of no deletions then: whoever keeps a cache
    has to compare it with a list.

    Args:
        paths: path of each watch, and the kind that it is about.
        listed: called when all watches of a kind have made their first list, and after each
            further list.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        paths: Mapping[str, Kind],
        listed: Callable[[Kind], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._listed = listed
        self._clock = clock
        self._unlisted = set(paths)
        self._opened: dict[str, float] = {}
        self.num_relists = 0

    def start(self) -> None:
        """From now on watches are expected."""
        now = self._clock()
        self._opened = dict.fromkeys(self._paths, now)

    def stale(self) -> list[str]:
        """Paths of the watches that are dead."""
        oldest = self._clock() - STALE_AFTER.total_seconds()
        return [path for path, opened in self._opened.items() if opened < oldest]

    def trace(self) -> aiohttp.TraceConfig:
        """What the session that kopf uses has to be made with."""
        config: aiohttp.TraceConfig = aiohttp.TraceConfig()
        config.on_request_end.append(self._on_request_end)
        return config

    async def _on_request_end(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        parameters: aiohttp.TraceRequestEndParams,
    ) -> None:
        if parameters.response.status >= 400 or parameters.method.upper() != "GET":
            return
        self.answered(parameters.url.path, parameters.url.query)

    def answered(self, path: str, query: Mapping[str, str]) -> None:
        """Takes note of an answer to one of kopf's requests."""
        kind = self._paths.get(path)
        if kind is None:
            return
        if "watch" in query:
            self._opened[path] = self._clock()
        elif "continue" not in query:
            self._count_list(path, kind)

    def _count_list(self, path: str, kind: Kind) -> None:
        if path in self._unlisted:
            self._unlisted.discard(path)
        else:
            self.num_relists += 1
        if not any(self._paths[other] is kind for other in self._unlisted):
            self._listed(kind)
