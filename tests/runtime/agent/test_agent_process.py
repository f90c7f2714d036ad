import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from reknit.protocol.agents import (
    Begin,
    Conclude,
    Drain,
    End,
    Exited,
    FromSlot,
    Heartbeat,
    Leaving,
    Place,
    Register,
    Stopped,
    Welcome,
)
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.ranks import Finished, Phase, StepDone

StartAgent: TypeAlias = Callable[..., Any]
RunGeneration: TypeAlias = Callable[..., Awaitable[Begin]]


async def running(coordinator: Any, num_ranks: int = 2) -> Heartbeat:
    """The first heartbeat after every rank has taken a step."""
    beat: Heartbeat = await coordinator.hear(
        Heartbeat,
        lambda beat: sum(s.step == 1 and s.pid is not None for s in beat.slots) == num_ranks,
    )
    return beat


def next_generation(coordinator: Any, begun: Begin) -> Begin:
    """The same places in a newer generation, at the store that is on offer now."""
    newer = Generation(incarnation=1, counter=begun.generation.counter + 1)
    offered = coordinator.all(Heartbeat)[-1].store
    return begun.model_copy(update={"generation": newer, "store": offered})


async def test_ranks_run_end_and_run_again(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    agent = start_agent(processes_per_worker=2)
    begun = await run_generation()
    beat = await running(coordinator)
    assert [(s.rank, s.generation, s.phase) for s in beat.slots] == [
        (0, begun.generation, Phase.STEP),
        (1, begun.generation, Phase.STEP),
    ]
    assert beat.store != begun.store
    pids.watch(*(slot.pid for slot in beat.slots))

    await coordinator.say(End(generation=begun.generation, reason="test"))
    stopped = await coordinator.hear(Stopped)
    assert stopped.generation == begun.generation
    assert pids.num_running == 0
    assert coordinator.all(Exited) == []

    again = next_generation(coordinator, begun)
    assert again.store == beat.store
    await coordinator.say(again)
    beat = await running(coordinator)
    assert {slot.generation for slot in beat.slots} == {again.generation}
    assert all(slot.silent_seconds < 1.0 for slot in beat.slots)
    assert coordinator.tokens == ["Bearer a-token"]
    assert "a-token" not in agent.log


async def test_a_finished_job_is_concluded(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    agent = start_agent(processes_per_worker=2)
    begun = await run_generation()
    await running(coordinator)
    await coordinator.say(Drain(generation=begun.generation, reason="test"))
    for _ in range(2):
        said = await coordinator.hear(FromSlot, lambda said: isinstance(said.message, Finished))
        assert said.message.left
    done = Conclusion(exit_class=ExitClass.SUCCEEDED, message="done", step=1)
    await coordinator.say(Conclude(incarnation=1, conclusion=done))
    assert await agent.wait() == 0
    assert agent.conclusion == done
    assert coordinator.all(Exited) == []


async def test_ends_of_processes_are_reported_within_milliseconds(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    start_agent(processes_per_worker=2)
    begun = await run_generation()
    beat = await running(coordinator)
    seconds = []
    for _ in range(5):
        killed = time.monotonic()
        os.kill(beat.slots[1].pid, signal.SIGKILL)
        exited = await coordinator.hear(Exited)
        seconds.append(time.monotonic() - killed)
        assert (exited.rank, exited.exit.signal) == (1, signal.SIGKILL)
        assert exited.exit.exit_class is ExitClass.KILLED
        begun = next_generation(coordinator, begun)
        await coordinator.say(begun)
        beat = await coordinator.hear(
            Heartbeat,
            lambda beat, begun=begun: all(
                s.generation == begun.generation and s.step == 1 for s in beat.slots
            ),
        )
    assert sorted(seconds)[2] < 0.1


async def test_a_ranks_error_is_reported_with_its_exit(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    agent = start_agent(config={"error": "ValueError: bad"})
    await run_generation(num_ranks=1)
    exited = await coordinator.hear(Exited)
    assert exited.exit.exit_class is ExitClass.PROGRAM_ERROR
    assert exited.exit.exit_code == 1
    assert exited.exit.error == ErrorReport(
        exception="ValueError: bad", traceback="ValueError: bad"
    )
    broken = Conclusion(exit_class=ExitClass.PROGRAM_ERROR, message="ValueError: bad")
    await coordinator.say(Conclude(incarnation=1, conclusion=broken))
    assert await agent.wait() == 1
    assert agent.conclusion == broken


async def test_a_wrong_configuration_is_found_before_any_rank_starts(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    (tmp_path / "user.py").write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass\nclass Config:\n    depth: int = 1\n\n"
        "def train(job, config: Config) -> None: ...\n"
    )
    start_agent(function="user:train", config={"dept": 4})
    await run_generation(num_ranks=1)
    exited = await coordinator.hear(Exited)
    assert exited.exit.exit_class is ExitClass.CONFIGURATION
    assert exited.exit.exit_code == 2
    assert exited.exit.error is not None
    assert "dept" in exited.exit.error.exception
    assert coordinator.all(FromSlot) == []


async def test_training_goes_on_without_a_coordinator_and_the_next_one_hears_of_it(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    start_agent(processes_per_worker=2)
    begun = await run_generation()
    beat = await running(coordinator)
    pids.watch(beat.slots[0].pid)
    await coordinator.stop()
    os.kill(beat.slots[1].pid, signal.SIGTERM)
    os.kill(beat.slots[1].pid, signal.SIGINT)
    os.kill(beat.slots[1].pid, signal.SIGABRT)
    num_heard = len(coordinator.heard)
    await coordinator.start()
    register = await coordinator.hear(Register)
    assert coordinator.heard[num_heard] == register
    assert (register.generation, register.world_size) == (begun.generation, 2)
    assert [slot.pid for slot in register.slots] == [beat.slots[0].pid, None]
    exited = await coordinator.hear(Exited)
    assert (exited.rank, exited.exit.signal) == (1, signal.SIGABRT)
    assert pids.num_running == 1

    await coordinator.say(Welcome(incarnation=2))
    end = Generation(incarnation=2, counter=1)
    await coordinator.say(End(generation=end, reason="rank 1 is gone"))
    assert (await coordinator.hear(Stopped)).generation == end
    assert pids.num_running == 0


async def test_sigterm_lets_ranks_finish_and_ends_the_agent(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    agent = start_agent(processes_per_worker=2)
    begun = await run_generation()
    await running(coordinator)
    agent.process.send_signal(signal.SIGTERM)
    assert (await coordinator.hear(Leaving)).grace_seconds == 30.0
    await coordinator.say(Drain(generation=begun.generation, reason="test"))
    for _ in range(2):
        await coordinator.hear(FromSlot, lambda said: isinstance(said.message, Finished))
    await coordinator.say(End(generation=begun.generation, reason="left"))
    assert (await coordinator.hear(Stopped)).generation == begun.generation
    assert await agent.wait() == 143
    assert agent.conclusion.exit_class is ExitClass.PREEMPTED


async def test_sigterm_ends_an_agent_whose_ranks_do_not_leave_within_the_grace_period(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    agent = start_agent(config={"stubborn": True}, grace=4.0)
    await run_generation(num_ranks=1)
    beat = await running(coordinator, 1)
    pids.watch(beat.slots[0].pid)
    started = time.monotonic()
    agent.process.send_signal(signal.SIGTERM)
    assert await agent.wait() == 143
    assert 2.9 <= time.monotonic() - started < 4.0
    assert pids.num_running == 0


async def test_sigterm_while_modules_are_imported(
    coordinator: Any, start_agent: StartAgent, tmp_path: Path
) -> None:
    fifo = tmp_path / "opened"
    os.mkfifo(fifo)
    # Blocks the import for good once this test has opened the other end.
    (tmp_path / "slow.py").write_text(f"open({str(fifo)!r}).read()\n")
    agent = start_agent(target="slow:run")
    await coordinator.hear(Register)
    with fifo.open("w"):
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.wait() == 143
    assert agent.conclusion.exit_class is ExitClass.PREEMPTED


async def test_sigterm_without_a_coordinator(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    agent = start_agent()
    await run_generation(num_ranks=1)
    beat = await running(coordinator, 1)
    pids.watch(beat.slots[0].pid)
    await coordinator.stop()
    agent.process.send_signal(signal.SIGTERM)
    assert await agent.wait() == 143
    assert pids.num_running == 0


async def test_a_place_elsewhere_starts_nothing_here(
    coordinator: Any, start_agent: StartAgent
) -> None:
    start_agent()
    register = await coordinator.hear(Register)
    begun = Begin(
        generation=Generation(incarnation=1, counter=1),
        world_size=1,
        store=register.store,
        places=(Place(rank=0, agent="job-worker-9", slot=0),),
    )
    await coordinator.say(begun)
    await coordinator.say(End(generation=begun.generation, reason="test"))
    await coordinator.hear(Stopped)
    assert [slot.pid for beat in coordinator.all(Heartbeat) for slot in beat.slots] == [
        None for beat in coordinator.all(Heartbeat) for _ in beat.slots
    ]
    assert coordinator.all(FromSlot) == []


async def test_a_step_is_passed_on(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    start_agent()
    begun = await run_generation(num_ranks=1)
    said = await coordinator.hear(FromSlot)
    assert said.rank == 0
    assert said.message == StepDone(generation=begun.generation, step=1)


async def test_an_agent_that_cannot_go_on_says_so_and_leaves_nothing(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    agent = start_agent()
    begun = await run_generation(num_ranks=1)
    beat = await running(coordinator, 1)
    pids.watch(beat.slots[0].pid)
    impossible = Place(rank=0, agent="job-worker-0", slot=7)
    newer = next_generation(coordinator, begun)
    await coordinator.say(newer.model_copy(update={"places": (impossible,)}))
    assert await agent.wait() == 70
    assert agent.conclusion.exit_class is ExitClass.INFRASTRUCTURE
    assert "the agent failed" in agent.conclusion.message
    assert pids.num_running == 0


def test_an_incomplete_environment_is_refused_in_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "termination"
    environment = {"PATH": os.environ["PATH"], "REKNIT_TERMINATION_LOG": str(log)}
    done = subprocess.run(
        [sys.executable, "-m", "reknit.agent"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr == "the pod's environment lacks REKNIT_JOB\n"
    conclusion = Conclusion.model_validate_json(log.read_text())
    assert conclusion.exit_class is ExitClass.CONFIGURATION
