"""The store of a generation on the listener that the agent binds and rank 0 inherits."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from torch.distributed import TCPStore

from reknit.agent.listeners import open_listener
from reknit.protocol.agents import Begin, Exited, Heartbeat, Register

StartAgent: TypeAlias = Callable[..., Any]
RunGeneration: TypeAlias = Callable[..., Awaitable[Begin]]
TIMEOUT = timedelta(seconds=30)


@pytest.mark.parametrize("use_libuv", [True, False])
def test_ranks_may_connect_before_rank_0_serves(use_libuv: bool) -> None:
    offer = open_listener("127.0.0.1")
    host, port = offer.endpoint.host, offer.endpoint.port

    def read(rank: int) -> bytes:
        store = TCPStore(host, port, is_master=False, timeout=TIMEOUT, use_libuv=use_libuv)
        store.set(f"rank {rank}", "here")
        value: bytes = store.get("key")
        return value

    with ThreadPoolExecutor() as pool:
        early = [pool.submit(read, rank) for rank in (1, 2)]
        # Both have connected, and wait in the backlog: the kernel shows how many do.
        wait_for_backlog(port, 2)
        master = TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=TIMEOUT,
            use_libuv=use_libuv,
            master_listen_fd=offer.socket.detach(),
        )
        master.set("key", "value")
        assert [future.result() for future in early] == [b"value", b"value"]
        assert master.get("rank 1") == master.get("rank 2") == b"here"


def wait_for_backlog(port: int, num_connections: int) -> None:
    """Returns when so many connections to a listener of this machine wait to be accepted."""
    while True:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            is_listener = fields[3] == "0A" and fields[1].endswith(f":{port:04X}")
            if is_listener and int(fields[4].partition(":")[2], 16) == num_connections:
                return


async def test_rank_0_inherits_the_listener_that_others_have_already_found(
    coordinator: Any, start_agent: StartAgent
) -> None:
    start_agent(config={"answer": True})
    register = await coordinator.hear(Register)
    with socket.create_connection((register.store.host, register.store.port)) as early:
        early.setblocking(False)
        begun = begin_one(register)
        await coordinator.say(begun)
        async with asyncio.timeout(20):
            answer = await asyncio.get_running_loop().sock_recv(early, 100)
    assert answer == b"rank 0 of 1"


async def test_every_generation_gets_a_listener_of_its_own(
    coordinator: Any, start_agent: StartAgent
) -> None:
    start_agent(config={"exit": 1})
    register = await coordinator.hear(Register)
    offers = [register.store]
    begun = begin_one(register)
    for counter in (1, 2, 3):
        newer = begun.generation.model_copy(update={"counter": counter})
        await coordinator.say(begun.model_copy(update={"generation": newer, "store": offers[-1]}))
        exited = await coordinator.hear(Exited)
        assert exited.generation == newer
        beat = coordinator.all(Heartbeat)[-1]
        offers.append(beat.store)
    assert len({offer.port for offer in offers}) == 4
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((offers[0].host, offers[0].port))


def begin_one(register: Register) -> Begin:
    return Begin.model_validate(
        {
            "generation": {"incarnation": 1, "counter": 1},
            "world_size": 1,
            "store": register.store.model_dump(),
            "places": [{"rank": 0, "agent": register.agent, "slot": 0}],
        }
    )
