import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from reknit.protocol.agents import (
    Begin,
    Conclude,
    End,
    Exited,
    FromSlot,
    Heartbeat,
    Leaving,
    Register,
    Stopped,
    Welcome,
)
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import Phase, StepDone

StartAgent: TypeAlias = Callable[..., Any]
RunGeneration: TypeAlias = Callable[..., Awaitable[Begin]]


async def test_ranks_run_and_end_with_their_generation(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    start_agent(processes_per_worker=2)
    begun = await run_generation()
    for _ in range(2):
        await coordinator.hear(FromSlot, lambda said: isinstance(said.message, StepDone))
    beat = await coordinator.hear(Heartbeat, lambda beat: all(s.pid for s in beat.slots))
    assert [(s.rank, s.generation, s.step) for s in beat.slots] == [
        (0, begun.generation, 1),
        (1, begun.generation, 1),
    ]
    assert beat.store != begun.store
    pids = [os.pidfd_open(slot.pid) for slot in beat.slots]
    await coordinator.say(End(generation=begun.generation, reason="test"))
    stopped = await coordinator.hear(Stopped)
    assert stopped.generation == begun.generation
    assert stopped.store not in (begun.store,)
    for pid in pids:
        os.close(pid)
    assert coordinator.all(Exited) == []
    assert coordinator.tokens == ["Bearer a-token"]
