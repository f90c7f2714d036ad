"""What `reknit chaos` does to processes: real ones, children of the test."""

import asyncio
import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest

from reknit.protocol.settings import ENV_POD_IP, ENV_POD_NAME, ENV_ROLE, ENV_TOKEN
from reknit_operator.cli.chaos.decide import Action, Deed
from reknit_operator.cli.chaos.hands import Hands
from reknit_operator.local.processes import Coordinator, find_processes
from reknit_operator.local.sweep import ENV_SESSION, sweep

SESSION = f"hands-{os.getpid()}"
OTHER = f"other-{os.getpid()}"
PATIENCE = 20
SOON = timedelta(milliseconds=200)
NEVER = timedelta(hours=1)


@pytest.fixture
def start():
    """start(**variables): a process that sleeps; or, with a command, that."""
    started = []

    def run(*command, session=SESSION, **variables):
        process = subprocess.Popen(
            command or ["sleep", "1000"],
            env={"PATH": os.environ["PATH"], ENV_SESSION: session, **variables},
            stdout=subprocess.PIPE,
        )
        started.append(process)
        # The kernel lets the parent go on shortly before the new program's environment can be read.
        while session.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes():
            assert process.poll() is None
        return process

    yield run
    for session in (SESSION, OTHER):
        sweep({ENV_SESSION: session})
    for process in started:
        with process:
            pass


def has_turned(process, what):
    return os.waitid(os.P_PID, process.pid, what | os.WNOHANG) is not None


async def turned(process, what):
    """Waits until a child has stopped or gone on."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, changed.set)
    try:
        async with asyncio.timeout(PATIENCE):
            while not has_turned(process, what):
                await changed.wait()
                changed.clear()
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


def has_stopped(process):
    """Whether a child has stopped, or ended, and has not gone on since."""
    return has_turned(process, os.WSTOPPED | os.WEXITED)


def hands(*, resume_after=NEVER, slow_for=NEVER):
    return Hands(SESSION, resume_after=resume_after, slow_for=slow_for)


async def test_a_killed_rank_is_dead(start):
    rank, other = start(), start()
    chaos = hands()
    assert await chaos.do(Deed(Action.KILL_RANK, rank.pid, "worker-0", 1))
    assert rank.wait() == -signal.SIGKILL
    assert chaos.calm_since is None
    assert other.poll() is None
    assert not await chaos.do(Deed(Action.KILL_RANK, rank.pid, "worker-0", 1))


@pytest.mark.parametrize("action", [a for a in Action if a is not Action.KILL_POD])
async def test_processes_of_another_session_are_never_touched(start, action):
    stranger = start(session=OTHER)
    chaos = hands()
    assert not await chaos.do(Deed(action, stranger.pid, "worker-0", 1))
    await chaos.close()
    assert not has_stopped(stranger)


async def test_a_pod_goes_with_all_its_processes(start):
    pod = [start(**{ENV_POD_NAME: "worker-1"}) for _ in range(3)]
    other = start(**{ENV_POD_NAME: "worker-0"})
    assert await hands().do(Deed(Action.KILL_POD, pod[0].pid, "worker-1"))
    assert [process.wait() for process in pod] == [-signal.SIGKILL] * 3
    assert other.poll() is None


async def test_a_stopped_rank_goes_on_by_itself(start):
    rank, before = start(), time.time()
    chaos = hands(resume_after=SOON)
    assert await chaos.do(Deed(Action.STOP_RANK, rank.pid, "worker-0", 1))
    await turned(rank, os.WSTOPPED)
    assert chaos.calm_since is None
    await turned(rank, os.WCONTINUED)
    await chaos.close()
    assert chaos.calm_since >= before + SOON.total_seconds()


@pytest.mark.parametrize("action", [Action.STOP_RANK, Action.SLOW_RANK])
async def test_at_the_end_nothing_stands_still(start, action):
    """Also when the end comes at once, before anything else could run."""
    rank = start()
    chaos = hands()
    assert await chaos.do(Deed(action, rank.pid, "worker-0", 1))
    await chaos.close()
    # A process that stands still would not follow this signal.
    rank.terminate()
    assert rank.wait(PATIENCE) == -signal.SIGTERM


async def test_a_slow_rank_stops_and_goes_on_again_and_again(start):
    rank = start()
    chaos = hands(slow_for=timedelta(seconds=1))
    assert await chaos.do(Deed(Action.SLOW_RANK, rank.pid, "worker-0", 1))
    for _ in range(3):
        await turned(rank, os.WSTOPPED)
        await turned(rank, os.WCONTINUED)
    await chaos.close()


async def test_a_stopped_rank_that_was_replaced_meanwhile_stays_dead(start):
    rank = start()
    chaos = hands(resume_after=SOON)
    assert await chaos.do(Deed(Action.STOP_RANK, rank.pid, "worker-0", 1))
    rank.kill()
    rank.wait()
    await chaos.close()
    assert chaos.calm_since is None


@pytest.mark.parametrize("action", [Action.KILL_COORDINATOR, Action.KILL_OPERATOR])
async def test_the_generation_outlives_coordinator_and_operator(start, action):
    process, before = start(), time.time()
    chaos = hands()
    assert await chaos.do(Deed(action, process.pid))
    assert process.wait() == -signal.SIGKILL
    assert chaos.calm_since >= before


def test_each_part_is_found_by_its_first_process(start):
    operator = start()
    coordinator = start(
        **{
            ENV_POD_NAME: "job-coordinator-1",
            ENV_ROLE: "coordinator",
            ENV_POD_IP: "127.0.0.9",
            ENV_TOKEN: "secret",
        }
    )
    agents = {}
    for pod in ("worker-0", "worker-1"):
        agent = start(
            *("sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait"),
            **{ENV_POD_NAME: pod, ENV_ROLE: "worker"},
        )
        assert agent.stdout.readline() == b"ready\n"
        agents[pod] = agent.pid
    start(session=OTHER, **{ENV_POD_NAME: "worker-2", ENV_ROLE: "worker"})
    found = find_processes(SESSION)
    assert found.operator == operator.pid
    assert found.coordinator == Coordinator(coordinator.pid, "127.0.0.9", "secret")
    assert found.agents == agents


def test_of_a_session_that_has_ended_nothing_is_found():
    found = find_processes(SESSION)
    assert (found.operator, found.coordinator, dict(found.agents)) == (None, None, {})
