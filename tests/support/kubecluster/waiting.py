"""Asking again and again, for what nothing else tells of."""

import time
from collections.abc import Callable


def until(fits: Callable[[], bool], seconds: float, tell: Callable[[], str] = str) -> None:
    """Waits until `fits` says so.

    Raises:
        TimeoutError: it has not; with what `tell` has to say.
    """
    deadline = time.monotonic() + seconds
    while not fits():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds:g} s\n{tell()}")
        time.sleep(0.1)
