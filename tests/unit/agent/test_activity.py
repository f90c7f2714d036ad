import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reknit.agent.activity import Activity


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that prints a line once it does what it is for."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def settles(condition: Callable[[], bool], num_tries: int = 10_000) -> bool:
    return any(condition() for _ in range(num_tries))


def test_a_process_that_computes_is_at_work_and_a_stopped_one_is_not() -> None:
    with program("print(flush=True)\nwhile True: pass") as process:
        activity = Activity()
        assert settles(lambda: activity.at_work({7: process.pid}) == {7})
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        activity.at_work({7: process.pid})
        assert activity.at_work({7: process.pid}) == frozenset()
        os.kill(process.pid, signal.SIGCONT)
        assert settles(lambda: activity.at_work({7: process.pid}) == {7})


def test_a_process_that_waits_is_not_at_work() -> None:
    with program("print(flush=True)\nimport sys; sys.stdin.read()") as process:
        activity = Activity()
        assert settles(lambda: not activity.at_work({7: process.pid}))


def test_a_process_that_is_gone_is_not_at_work() -> None:
    with program("print(flush=True)") as process:
        process.wait()
        assert Activity().at_work({7: process.pid}) == frozenset()
