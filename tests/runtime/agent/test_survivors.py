"""Processes that outlive their generation, in a real agent."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from reknit.protocol.agents import Begin, End, Exited, Heartbeat, Stopped
from reknit.protocol.base import Generation

StartAgent: TypeAlias = Callable[..., Any]
RunGeneration: TypeAlias = Callable[..., Awaitable[Begin]]


async def running(coordinator: Any, generation: Generation) -> Heartbeat:
    """The first heartbeat after every rank has taken a step in this generation."""
    beat: Heartbeat = await coordinator.hear(
        Heartbeat,
        lambda beat: all(s.generation == generation and s.step == 1 for s in beat.slots),
    )
    return beat


async def replace(coordinator: Any, begun: Begin, **ending: Any) -> Begin:
    """Ends a generation, keeping its processes, and begins the next one."""
    await coordinator.say(End(generation=begun.generation, reason="test", keep=True, **ending))
    stopped = await coordinator.hear(Stopped)
    newer = Generation(incarnation=1, counter=begun.generation.counter + 1)
    message = begun.model_copy(update={"generation": newer, "store": stopped.store})
    await coordinator.say(message)
    return message


async def test_a_survivor_takes_its_next_place_and_a_dead_ranks_goes_to_another_process(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    agent = start_agent(processes_per_worker=2)
    begun = await run_generation()
    beat = await running(coordinator, begun.generation)
    pids.watch(beat.slots[0].pid)
    for _ in range(3):
        dead = beat.slots[1].pid
        os.kill(dead, signal.SIGKILL)
        await coordinator.hear(Exited)
        begun = await replace(coordinator, begun)
        newer = await running(coordinator, begun.generation)
        assert newer.slots[0].pid == beat.slots[0].pid
        assert newer.slots[1].pid != dead
        beat = newer
    assert pids.num_running == 1
    assert [exited.rank for exited in coordinator.all(Exited)] == [1, 1, 1]
    assert "a parked process is warm" in agent.log


async def test_a_survivor_that_hosts_the_store_gets_the_next_listener(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    start_agent(config={"answer": True})
    begun = await run_generation(num_ranks=1)
    pid = None
    for counter in (1, 2, 3):
        with socket.create_connection((begun.store.host, begun.store.port)) as client:
            client.setblocking(False)
            async with asyncio.timeout(20):
                answer = await asyncio.get_running_loop().sock_recv(client, 100)
        assert answer == b"rank 0 of %d" % counter
        beat = await running(coordinator, begun.generation)
        assert pid in (None, beat.slots[0].pid)
        pid = beat.slots[0].pid
        begun = await replace(coordinator, begun)


async def test_a_stopped_rank_at_fault_is_not_waited_for(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    start_agent(processes_per_worker=2)
    begun = await run_generation()
    beat = await running(coordinator, begun.generation)
    pids.watch(beat.slots[1].pid)
    os.kill(beat.slots[1].pid, signal.SIGSTOP)
    started = time.monotonic()
    begun = await replace(coordinator, begun, failed=(1,))
    assert time.monotonic() - started < 1.0
    await pids.all_gone()
    assert (await running(coordinator, begun.generation)).slots[0].pid == beat.slots[0].pid


async def test_a_stopped_rank_that_nobody_has_found_yet_is_given_up_for_its_silence(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    start_agent(processes_per_worker=2)
    begun = await run_generation()
    beat = await running(coordinator, begun.generation)
    pids.watch(beat.slots[1].pid)
    os.kill(beat.slots[1].pid, signal.SIGSTOP)
    started = time.monotonic()
    begun = await replace(coordinator, begun)
    assert time.monotonic() - started < 3.0
    await pids.all_gone()
    assert (await running(coordinator, begun.generation)).slots[0].pid == beat.slots[0].pid


async def test_the_parked_process_is_gone_with_its_agent(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    agent = start_agent()
    begun = await run_generation(num_ranks=1)
    await running(coordinator, begun.generation)
    async with asyncio.timeout(20):
        while "a parked process is warm" not in agent.log:
            await coordinator.hear(Heartbeat)
    [forkserver] = children(agent.process.pid)
    pids.watch(*children(forkserver))
    assert pids.num_running == 2
    agent.process.send_signal(signal.SIGTERM)
    await coordinator.say(End(generation=begun.generation, reason="left"))
    assert await agent.wait() == 143
    assert pids.num_running == 0


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
