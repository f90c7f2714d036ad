"""Running ahead: a thread that makes items before they are asked for."""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class _Shared(Generic[T]):
    """What the thread and its consumer share; `changed` guards all of it."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.changed = threading.Condition()
        self.items: deque[T] = deque()
        self.error: BaseException | None = None
        self.ended = False
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()
        with self.changed:
            self.items.clear()
            self.changed.notify_all()


class Prefetcher(Generic[T]):
    """Iterates `produce(closed)` in a thread, at most `depth` items ahead of the caller.

    An exception in `produce` is raised in the caller, after the items made before it. `produce`
    should look at the event it is given, and return once it is set. Leaving the context closes a
    prefetcher; one that is dropped without `close` ends its thread too.
    """

    def __init__(
        self, produce: Callable[[threading.Event], Iterator[T]], *, depth: int, name: str
    ) -> None:
        if depth < 1:
            raise ValueError(f"at least one item must be made ahead, not {depth}")
        shared: _Shared[T] = _Shared(depth)
        self._shared = shared
        self.wait_seconds = 0.0
        """Time that callers have spent waiting for items so far."""
        # The thread must not hold the prefetcher itself: it would never be collected.
        self._thread = threading.Thread(
            target=_fill, args=(shared, produce), name=name, daemon=True
        )
        self._finalizer = weakref.finalize(self, shared.close)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        shared = self._shared
        start = time.perf_counter()
        with shared.changed:
            while not (shared.items or shared.ended or shared.closed.is_set()):
                shared.changed.wait()
            self.wait_seconds += time.perf_counter() - start
            if shared.closed.is_set():
                raise RuntimeError("the loader is closed")
            if shared.items:
                shared.changed.notify_all()
                return shared.items.popleft()
        if shared.error is not None:
            raise shared.error
        raise StopIteration

    def close(self, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Ends the thread and drops what it has made; returns at the latest after `timeout`.

        `next` raises RuntimeError from now on. Only a data set that hangs in one sample outlasts
        the timeout; its thread is a daemon.
        """
        self._shared.close()
        self._finalizer.detach()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout.total_seconds())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fill(shared: _Shared[T], produce: Callable[[threading.Event], Iterator[T]]) -> None:
    try:
        for item in produce(shared.closed):
            with shared.changed:
                while len(shared.items) >= shared.depth and not shared.closed.is_set():
                    shared.changed.wait()
                if shared.closed.is_set():
                    return
                shared.items.append(item)
                shared.changed.notify_all()
    except BaseException as error:  # also a SystemExit belongs to the caller
        shared.error = error
    finally:
        with shared.changed:
            shared.ended = True
            shared.changed.notify_all()
