"""A thread that does one thing after another."""

import threading
from collections import deque
from collections.abc import Callable
from datetime import timedelta


class BackgroundThread:
    """Runs tasks in the order they were given; it starts with the first one.

    Tasks must not raise: what goes wrong in them is theirs to report.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._tasks: deque[Callable[[], None]] = deque()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Runs `task` after all tasks before it."""
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{self._name} is closed")
            self._tasks.append(task)
            if self._thread is None:
                # A daemon: a device that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout: timedelta) -> bool:
        """Waits until every task is done; False if that took longer than `timeout`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._tasks and not self._busy, timeout.total_seconds()
            )

    def close(self, timeout: timedelta) -> None:
        """Ends the thread after the tasks it has; returns at the latest after `timeout`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout.total_seconds())

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._tasks:
                    if self._closed:
                        return
                    self._changed.wait()
                task = self._tasks.popleft()
                self._busy = True
            task()
