import threading
from datetime import timedelta

import pytest

from reknit.checkpoint.background import BackgroundThread

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def thread():
    thread = BackgroundThread("background-under-test")
    yield thread
    thread.close(PATIENCE)


def running():
    return [t for t in threading.enumerate() if t.name == "background-under-test"]


def test_tasks_run_one_after_the_other(thread):
    done = []
    for number in range(50):
        thread.submit(lambda number=number: done.append((number, threading.get_ident())))
    assert thread.wait(PATIENCE)
    assert [number for number, _ in done] == list(range(50))
    assert len({ident for _, ident in done}) == 1


def test_without_a_task_there_is_no_thread_and_nothing_to_wait_for(thread):
    assert thread.wait(timedelta(0))
    assert running() == []


def test_waiting_has_an_end(thread):
    release = threading.Event()
    thread.submit(lambda: release.wait(20))
    assert not thread.wait(timedelta(milliseconds=10))
    release.set()
    assert thread.wait(PATIENCE)


def test_closing_finishes_what_was_begun(thread):
    done = []
    for number in range(10):
        thread.submit(lambda number=number: done.append(number))
    thread.close(PATIENCE)
    assert done == list(range(10))
    assert running() == []
    with pytest.raises(RuntimeError, match="background-under-test is closed"):
        thread.submit(done.clear)


def test_closing_does_not_wait_for_ever(thread):
    release = threading.Event()
    thread.submit(lambda: release.wait(20))
    thread.close(timedelta(milliseconds=10))
    (hanging,) = running()
    assert hanging.daemon
    release.set()
    hanging.join(20)
    assert running() == []
