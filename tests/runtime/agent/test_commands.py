import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest

from reknit.protocol.agents import (
    Begin,
    Conclude,
    Drain,
    End,
    Exited,
    FromSlot,
    Heartbeat,
    Register,
    Stopped,
)
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion, ExitClass
from reknit.protocol.ranks import Finished
from reknit.protocol.settings import Framework

StartAgent: TypeAlias = Callable[..., Any]
RunGeneration: TypeAlias = Callable[..., Awaitable[Begin]]

TORCH_SCRIPT = """
import os, pathlib, signal, sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo", init_method="env://")
rank, restarts = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
total = torch.tensor([1.0 + rank])
dist.all_reduce(total)
assert (dist.get_world_size(), total.item()) == (2, 3.0)
(pathlib.Path(sys.argv[1]) / f"{rank}-{restarts}").touch()
if restarts == 0 and rank == 1:
    os._exit(5)
if restarts == 0:
    signal.pause()
dist.destroy_process_group()
"""


SCRIPT = """
import os, pathlib, socket, sys

rank, restarts = os.environ["RANK"], int(os.environ["TORCHELASTIC_RESTART_COUNT"])
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
folder = pathlib.Path(sys.argv[1])
if rank == "0":
    with socket.create_server(("", address[1])) as server:
        peer, _ = server.accept()
        peer.sendall(b"hello")
else:
    while True:
        try:
            peer = socket.create_connection(address)
            break
        except ConnectionRefusedError:
            pass
    assert peer.recv(5) == b"hello"
(folder / f"{rank}-{restarts}").touch()
if restarts == 0 and rank == "1":
    sys.exit(5)
if restarts == 0:
    import signal
    signal.pause()
"""


def script(tmp_path: Path, text: str) -> tuple[str, ...]:
    (tmp_path / "script.py").write_text(text)
    return (sys.executable, str(tmp_path / "script.py"), str(tmp_path))


@pytest.mark.parametrize(
    "text", [SCRIPT, pytest.param(TORCH_SCRIPT, marks=pytest.mark.long)], ids=["sockets", "torch"]
)
async def test_a_failed_process_restarts_the_group(
    coordinator: Any,
    start_agent: StartAgent,
    run_generation: RunGeneration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    agent = start_agent(command=script(tmp_path, text), processes_per_worker=2)
    begun = await run_generation()
    exited = await coordinator.hear(Exited)
    assert (exited.rank, exited.exit.exit_code) == (1, 5)
    assert exited.exit.exit_class is ExitClass.PROGRAM_ERROR
    await coordinator.say(End(generation=begun.generation, reason="rank 1 has failed"))
    stopped = await coordinator.hear(Stopped)
    newer = Generation(incarnation=1, counter=2)
    await coordinator.say(begun.model_copy(update={"generation": newer, "store": stopped.store}))
    for _ in range(2):
        said = await coordinator.hear(FromSlot)
        assert said.message == Finished(generation=newer, step=0)
    assert all((tmp_path / name).exists() for name in ("1-0", "0-1", "1-1"))
    assert len(coordinator.all(Exited)) == 1
    done = Conclusion(exit_class=ExitClass.SUCCEEDED, message="done")
    await coordinator.say(Conclude(incarnation=1, conclusion=done))
    assert await agent.wait() == 0


async def test_a_commands_exit_status_becomes_the_pods(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    agent = start_agent(command=script(tmp_path, "import sys; sys.exit(42)"))
    await run_generation(num_ranks=1)
    assert (await coordinator.hear(Exited)).exit.exit_code == 42
    broken = Conclusion(exit_class=ExitClass.PROGRAM_ERROR, message="exit status 42")
    await coordinator.say(Conclude(incarnation=1, conclusion=broken))
    assert await agent.wait() == 42


async def test_a_missing_program_is_a_matter_of_configuration(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration
) -> None:
    start_agent(command=("no-such-program",))
    await run_generation(num_ranks=1)
    exited = await coordinator.hear(Exited)
    assert exited.exit.exit_class is ExitClass.CONFIGURATION
    assert exited.exit.error is not None
    assert "no-such-program" in exited.exit.error.exception


async def test_a_command_is_asked_to_leave_by_sigterm(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    text = (
        "import pathlib, signal, sys\n"
        "def leave(*_):\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "pathlib.Path(sys.argv[1], 'fifo').open('w').close()\n"
        "while True:\n    signal.pause()\n"
    )
    os.mkfifo(tmp_path / "fifo")
    start_agent(command=script(tmp_path, text))
    begun = await run_generation(num_ranks=1)
    # Opens when the program has installed its handler.
    await asyncio.to_thread(lambda: (tmp_path / "fifo").open().close())
    await coordinator.say(Drain(generation=begun.generation, reason="test"))
    said = await coordinator.hear(FromSlot)
    assert said.message == Finished(generation=begun.generation, step=0, left=True)


async def test_horovods_ranks_find_a_rendezvous_before_they_start(
    coordinator: Any, start_agent: StartAgent
) -> None:
    start_agent(
        command=(sys.executable, "-c", "import signal; signal.pause()"),
        framework=Framework.HOROVOD,
    )
    register = await coordinator.hear(Register)
    begun = Begin.model_validate(
        {
            "generation": {"incarnation": 1, "counter": 1},
            "world_size": 1,
            "store": register.store.model_dump(),
            "places": [{"rank": 0, "agent": register.agent, "slot": 0, "host": "127.0.0.1"}],
        }
    )
    await coordinator.say(begun)
    url = f"http://{register.store}/global_/0"
    async with aiohttp.ClientSession() as session:
        async with session.put(url, data=b"address") as answer:
            assert answer.status == 200
        async with session.get(url) as answer:
            assert await answer.read() == b"address"
    await coordinator.hear(Heartbeat, lambda beat: beat.slots[0].pid is not None)
