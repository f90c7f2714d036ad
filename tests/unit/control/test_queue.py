"""The queue of keys."""

import asyncio
from datetime import timedelta

import pytest

from reknit_operator.reconcile.queue import FIRST_RETRY, LAST_RETRY, KeyedQueue


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer when nothing else is to be done."""

    def __init__(self):
        super().__init__()
        self._offset = 0.0
        self._select = self._selector.select
        self._selector.select = self._jump

    def time(self):
        return super().time() + getattr(self, "_offset", 0.0)

    def _jump(self, timeout):
        ready = self._select(0)
        if not ready and timeout:
            self._offset += timeout
        return ready


@pytest.fixture
def run():
    def run_in_virtual_time(test):
        with asyncio.Runner(loop_factory=Clock) as runner:
            return runner.run(asyncio.wait_for(test, 3600))

    return run_in_virtual_time


def seconds(number):
    return timedelta(seconds=number)


def test_a_waiting_key_stands_once(run):
    async def test():
        queue = KeyedQueue()
        for key in "abab":
            queue.add(key)
        assert len(queue) == 2
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        assert len(queue) == 0

    run(test())


def test_a_key_is_never_worked_on_twice_at_a_time(run):
    async def test():
        queue = KeyedQueue()
        queue.add("a")
        key = await queue.get()
        queue.add("a")
        queue.add("a")
        assert len(queue) == 0
        queue.done(key)
        assert len(queue) == 1
        queue.done(await queue.get())
        assert len(queue) == 0

    run(test())


def test_get_waits_for_a_key(run):
    async def test():
        queue = KeyedQueue()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(1)
        assert not waiting.done()
        queue.add("a")
        assert await waiting == "a"

    run(test())


def test_delays_come_up_in_order_and_the_earlier_wins(run):
    async def test():
        queue, loop = KeyedQueue(), asyncio.get_running_loop()
        start = loop.time()
        queue.add("late", seconds(30))
        queue.add("late", seconds(20))
        queue.add("late", seconds(40))
        queue.add("early", seconds(10))
        assert await queue.get() == "early"
        assert loop.time() - start == pytest.approx(10, abs=0.5)
        assert await queue.get() == "late"
        assert loop.time() - start == pytest.approx(20, abs=0.5)
        await asyncio.sleep(60)
        assert len(queue) == 0

    run(test())


def test_adding_at_once_takes_the_place_of_a_delay(run):
    async def test():
        queue = KeyedQueue()
        queue.add("a", seconds(10))
        queue.add("a")
        queue.done(await queue.get())
        await asyncio.sleep(20)
        assert len(queue) == 0

    run(test())


def test_a_delay_that_ends_during_work_is_not_lost(run):
    async def test():
        queue = KeyedQueue()
        queue.add("a")
        key = await queue.get()
        queue.add("a", seconds(1))
        await asyncio.sleep(2)
        assert len(queue) == 0
        queue.done(key)
        assert len(queue) == 1

    run(test())


def test_retries_of_a_key_wait_longer_and_longer(run):
    async def test():
        queue = KeyedQueue()
        waits = [queue.retry("a") for _ in range(20)]
        assert waits[:3] == [FIRST_RETRY, FIRST_RETRY * 2, FIRST_RETRY * 4]
        assert waits[-1] == LAST_RETRY
        assert queue.retry("b") == FIRST_RETRY
        queue.forget("a")
        assert queue.retry("a") == FIRST_RETRY

    run(test())


def test_a_slow_key_does_not_hold_up_others(run):
    async def test():
        queue, seen = KeyedQueue(), []

        async def work():
            while True:
                key = await queue.get()
                await asyncio.sleep(100 if key == "slow" else 0.1)
                seen.append(key)
                queue.done(key)

        workers = [asyncio.create_task(work()) for _ in range(2)]
        queue.add("slow")
        for number in range(50):
            queue.add(f"quick-{number}")
        await asyncio.sleep(50)
        assert len(seen) == 50
        assert "slow" not in seen
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    run(test())
