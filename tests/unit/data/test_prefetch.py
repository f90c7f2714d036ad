import gc
import threading
from datetime import timedelta

import pytest

from reknit.data import prefetch as prefetch_module
from reknit.data.prefetch import Prefetcher


def threads(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


def prefetch(produce, depth=2):
    return Prefetcher(produce, depth=depth, name="prefetch-under-test")


def test_items_come_in_order_and_then_end():
    items = prefetch(lambda _: iter(range(100)))
    assert list(items) == list(range(100))
    with pytest.raises(StopIteration):
        next(items)


def test_it_runs_ahead_by_its_depth_and_no_further():
    made = []
    reached = threading.Semaphore(0)

    def produce(closed):
        for number in range(10):
            made.append(number)
            reached.release()
            yield number

    items = prefetch(produce, depth=3)
    for _ in range(4):
        assert reached.acquire(timeout=10)  # three waiting, and the fourth in the thread's hands
    assert not reached.acquire(timeout=0.05)
    assert made == [0, 1, 2, 3]
    assert next(items) == 0
    assert reached.acquire(timeout=10)
    items.close()
    assert len(made) == 5


def test_an_exception_comes_after_the_items_before_it():
    class TroubleError(Exception):
        pass

    def produce(closed):
        yield 1
        raise TroubleError("no such row")

    items = prefetch(produce)
    assert next(items) == 1
    with pytest.raises(TroubleError, match="no such row") as caught:
        next(items)
    # The user's own line is in the traceback.
    assert any(entry.name == "produce" for entry in caught.traceback)
    with pytest.raises(TroubleError):
        next(items)


def test_a_data_set_that_exits_does_not_end_in_silence():
    def produce(closed):
        yield from ()
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        next(prefetch(produce))


def test_waiting_is_measured(monkeypatch):
    clock = [0.0]
    asked = threading.Event()

    def perf_counter():
        asked.set()
        return clock[0]

    def produce(closed):
        assert asked.wait(10)
        clock[0] += 3.0  # while the caller waits
        yield 1
        yield 2

    monkeypatch.setattr(prefetch_module.time, "perf_counter", perf_counter)
    items = prefetch(produce)
    assert next(items) == 1
    assert items.wait_seconds == 3.0
    for thread in threads("prefetch-under-test"):
        thread.join(10)
    assert next(items) == 2
    assert items.wait_seconds == 3.0


def test_closing_ends_the_thread_and_further_use():
    items = prefetch(lambda _: iter(int, 1))
    assert next(items) == 0
    items.close()
    assert threads("prefetch-under-test") == []
    with pytest.raises(RuntimeError, match="closed"):
        next(items)
    items.close()


def test_closing_frees_a_caller_that_waits():
    release = threading.Event()
    caught = []

    def produce(closed):
        release.wait(10)
        yield from ()

    items = prefetch(produce)

    def consume():
        try:
            next(items)
        except RuntimeError as error:
            caught.append(str(error))

    consumer = threading.Thread(target=consume)
    consumer.start()
    items.close(timeout=timedelta(0))
    consumer.join(10)
    assert caught == ["the loader is closed"]
    release.set()
    for thread in threads("prefetch-under-test"):
        thread.join(10)


def test_close_does_not_wait_for_ever_for_a_hanging_data_set():
    release = threading.Event()

    def produce(closed):
        release.wait(60)
        yield 1

    items = prefetch(produce)
    items.close(timeout=timedelta(milliseconds=20))
    hanging = threads("prefetch-under-test")
    assert len(hanging) == 1
    release.set()
    hanging[0].join(10)
    assert not hanging[0].is_alive()


def test_one_that_is_dropped_ends_its_thread():
    items = prefetch(lambda _: iter(int, 1))
    next(items)
    (thread,) = threads("prefetch-under-test")
    del items
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="ahead"):
        prefetch(lambda _: iter(()), depth=0)
