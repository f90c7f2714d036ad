import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from reknit.agent import wire
from reknit.protocol.agents import Begin, End, Exited, FromSlot, Heartbeat, Stopped
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ExitClass
from reknit.protocol.settings import ENV_JOB, JobSettings

StartAgent: TypeAlias = Callable[..., Any]
RunGeneration: TypeAlias = Callable[..., Awaitable[Begin]]


async def watch_tree(coordinator: Any, pids: Any, num_ranks: int) -> Heartbeat:
    """Holds on to all ranks and to the child that each has started, whose id it tells as a step.

    `pids` may be given by rank.
    """
    by_rank = pids if isinstance(pids, dict) else dict.fromkeys(range(num_ranks), pids)
    for _ in range(num_ranks):
        said = await coordinator.hear(FromSlot, lambda said: said.message.step > 1)
        by_rank[said.rank].watch(said.message.step)
    beat: Heartbeat = await coordinator.hear(
        Heartbeat, lambda beat: all(slot.pid and slot.step == 1 for slot in beat.slots)
    )
    for slot in beat.slots:
        by_rank[slot.rank].watch(slot.pid)
    assert sum(held.num_running for held in set(by_rank.values())) == 2 * num_ranks
    return beat


def forkserver_of(agent: Any) -> int:
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text()
    [pid] = children.split()
    return int(pid)


@pytest.mark.parametrize("grandchild", ["same session", "daemon"])
async def test_nothing_survives_an_agent_that_was_killed(
    coordinator: Any,
    start_agent: StartAgent,
    run_generation: RunGeneration,
    pids: Any,
    grandchild: str,
) -> None:
    agent = start_agent(processes_per_worker=2, config={"grandchild": grandchild})
    await run_generation()
    await watch_tree(coordinator, pids, 2)
    pids.watch(forkserver_of(agent))
    agent.process.send_signal(signal.SIGKILL)
    await pids.all_gone()


def start_forkserver(folder: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = ["--socket", str(other.fileno()), "--parent", str(os.getpid())]
    settings = JobSettings(name="job")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    forkserver = subprocess.Popen(
        [sys.executable, "-m", "reknit.agent.forkserver", *arguments, "--target", "stand_in:run"],
        pass_fds=[other.fileno()],
        env={**os.environ, ENV_JOB: settings.model_dump_json(), "PYTHONPATH": path},
    )
    other.close()
    return forkserver, own


async def test_an_agent_that_dies_before_it_has_read_everything(pids: Any, tmp_path: Path) -> None:
    """The kernel reports that as an error of the connection and not as its end."""
    (tmp_path / "stand_in.py").write_text(
        "import subprocess, sys\n"
        "def run(settings, channel):\n"
        "    arguments = [sys.executable, '-c', 'import signal; signal.pause()']\n"
        "    child = subprocess.Popen(arguments, start_new_session=True)\n"
        "    channel.sendall(str(child.pid).encode())\n"
        "    channel.recv(1)\n"
    )
    forkserver, own = start_forkserver(tmp_path)
    channel, rank_end = socket.socketpair()
    with own, channel:
        wire.send(own, wire.StartProcess(launch=0, title="rank 0"), [rank_end.fileno()])
        rank_end.close()
        pids.watch(forkserver.pid, int(channel.recv(100)))
    await pids.all_gone()
    assert forkserver.wait() == 0


async def test_nothing_survives_the_end_of_a_generation(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    start_agent(processes_per_worker=2, config={"grandchild": "daemon"})
    begun = await run_generation()
    await watch_tree(coordinator, pids, 2)
    await coordinator.say(End(generation=begun.generation, reason="test"))
    await coordinator.hear(Stopped)
    await pids.all_gone()


@pytest.mark.parametrize("grandchild", ["same session", "daemon"])
async def test_a_rank_takes_what_it_has_started_with_it_and_nothing_else(
    coordinator: Any,
    start_agent: StartAgent,
    run_generation: RunGeneration,
    pids: Any,
    make_pids: Any,
    grandchild: str,
) -> None:
    start_agent(processes_per_worker=2, config={"grandchild": grandchild})
    await run_generation()
    others = make_pids()
    beat = await watch_tree(coordinator, {0: pids, 1: others}, 2)
    os.kill(beat.slots[0].pid, signal.SIGSEGV)
    exited = await coordinator.hear(Exited)
    assert exited.exit.signal == signal.SIGSEGV
    await pids.all_gone()
    assert others.num_running == 2


async def test_a_dead_forkserver_takes_ranks_with_it_and_is_replaced(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, pids: Any
) -> None:
    agent = start_agent(processes_per_worker=2, config={"grandchild": "same session"})
    begun = await run_generation()
    await watch_tree(coordinator, pids, 2)
    os.kill(forkserver_of(agent), signal.SIGKILL)
    for _ in range(2):
        exited = await coordinator.hear(Exited)
        assert exited.exit.exit_class is ExitClass.KILLED
    await pids.all_gone()
    offered = coordinator.all(Heartbeat)[-1].store
    newer = Generation(incarnation=1, counter=2)
    await coordinator.say(begun.model_copy(update={"generation": newer, "store": offered}))
    beat = await coordinator.hear(
        Heartbeat, lambda beat: all(s.generation == newer and s.step == 1 for s in beat.slots)
    )
    pids.watch(*(slot.pid for slot in beat.slots))
    agent.process.send_signal(signal.SIGKILL)
