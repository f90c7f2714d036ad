"""One server and one client: what is refused, what waits, and how both end."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import torch
import zmq
from ps_task import TOKEN, make_tensors

from reknit.parameter_server.client import (
    Client,
    ClosedError,
    Pending,
    RefusedError,
    first_clock,
)
from reknit.parameter_server.messages import Reason
from reknit.parameter_server.server import Server
from reknit.parameter_server.state import new_range
from reknit.parameter_server.table import Consistency, Mode
from reknit.parameter_server.tensors import DENSE
from reknit.parameter_server.views import Member, View

ASYNCHRONOUS = Mode(Consistency.ASYNCHRONOUS)
VIEW = View(1, 1, "server", None, (Member(0, 1),))
MAX_FRAME_BYTES = 1 << 16
FOREVER = 1e9


@asynccontextmanager
async def serving(lease: float = FOREVER) -> AsyncIterator[tuple[Server, str]]:
    server = Server("server", token=TOKEN, max_frame_bytes=MAX_FRAME_BYTES)
    tensors = make_tensors(0, ASYNCHRONOUS, initial=True)
    server.hold(0, new_range("server", ASYNCHRONOUS, holds_since=1), tensors)
    address = f"127.0.0.1:{server.start('127.0.0.1')}"
    server.see(0, VIEW, {})
    server.renew(0, 1, lease)
    running = asyncio.create_task(server.run())
    try:
        yield server, address
        assert not running.done()
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        server.close()


@contextmanager
def connected(address: str, token: str = TOKEN) -> Iterator[Client]:
    client = Client(
        1,
        worker=0,
        incarnation=1,
        token=token,
        is_synchronous=False,
        max_frame_bytes=MAX_FRAME_BYTES,
    )
    client.see(0, VIEW, {"server": address})
    try:
        yield client
    finally:
        client.close()


async def answer(pending: Pending):
    return await asyncio.to_thread(pending.result, 20.0)


async def counted(server: Server, name: str, number: int) -> None:
    """Lets the server work until it has counted so many."""
    while server.metrics().get(name, 0) < number:
        await asyncio.to_thread(int)


def gradient(value: float, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    length = len(make_tensors(0, ASYNCHRONOUS, initial=False).weights(WISH, previous=False)[DENSE])
    return {DENSE: torch.full((length,), value, dtype=dtype)}


WISH = {DENSE: torch.empty(0)}


async def test_weights_follow_from_pushes() -> None:
    async with serving() as (server, address):
        with connected(address) as client:
            assert first_clock(await answer(client.join())) == 0
            before = (await answer(client.pull(0, [WISH])))[0].tensors[DENSE].clone()
            await answer(client.push(0, [gradient(1.0)]))
            after = (await answer(client.pull(1, [WISH])))[0].tensors[DENSE]
            # The first step of AdamW is as long as the learning rate.
            decayed = before * (1 - 1e-2 * 1e-2)
            torch.testing.assert_close(after, decayed - 1e-2, atol=1e-6, rtol=1e-5)
            assert first_clock(await answer(client.join())) == 1
        found = server.metrics()
        assert (found["push_requests"], found["updates"]) == (1, 1)
        assert found["received_bytes"] > gradient(1.0)[DENSE].nbytes
        assert server.status(0).version == 1


async def test_half_precision_pushes_take_half_the_bytes() -> None:
    sent = {}
    for dtype in (torch.float32, torch.bfloat16):
        async with serving() as (_, address):
            with connected(address) as client:
                await answer(client.push(0, [gradient(1.0, dtype)]))
                sent[dtype] = client.metrics()["sent_bytes"]
    saved = sent[torch.float32] - sent[torch.bfloat16]
    assert abs(saved - gradient(1.0, torch.bfloat16)[DENSE].nbytes) < 20


async def test_noise_and_strangers_change_nothing() -> None:
    good = {
        "token": TOKEN,
        "sender": "worker-0.1",
        "range": 0,
        "kind": "Request",
        "body": {"kind": "push", "worker": 0, "incarnation": 1, "number": 1, "roster": 1},
        "tensors": [],
        "scalars": {},
    }
    noise = [
        [b""],
        [b"\x80\x04\x95"],
        [json.dumps(good).encode()],
        [json.dumps(good | {"token": "another"}).encode()],
        [json.dumps(good | {"range": 7, "kind": "Probe", "body": {}}).encode()],
        [b"x"] * 5000,
    ]
    async with serving() as (server, address):
        context = zmq.Context()
        with context.socket(zmq.DEALER) as stranger:
            stranger.linger = 1000
            stranger.connect(f"tcp://{address}")
            for frames in noise:
                stranger.send_multipart(frames)
            await counted(server, "bad_messages", len(noise))
            with connected(address) as client:
                await answer(client.pull(0, [WISH]))
        context.term()
        assert server.status(0).version == 0


async def test_too_large_a_tensor_costs_only_the_sender_s_connection() -> None:
    async with serving() as (server, address):
        context = zmq.Context()
        with context.socket(zmq.DEALER) as stranger, stranger.get_monitor_socket() as monitor:
            stranger.linger = 0
            stranger.connect(f"tcp://{address}")
            stranger.send(bytes(2 * MAX_FRAME_BYTES))
            events = set()
            while zmq.EVENT_DISCONNECTED not in events:
                event = await asyncio.to_thread(monitor.recv_multipart)
                events.add(int.from_bytes(event[0][:2], "little"))
            stranger.disable_monitor()
        context.term()
        with connected(address) as client:
            await answer(client.pull(0, [WISH]))
        assert server.metrics()["received_bytes"] < MAX_FRAME_BYTES


@pytest.mark.parametrize(
    "content",
    [{}, {DENSE: torch.zeros(3)}, {"rows/0": torch.tensor([10**6]), DENSE: torch.zeros(3)}],
)
async def test_a_gradient_that_does_not_fit_is_refused(content) -> None:
    async with serving() as (server, address):
        with connected(address) as client:
            with pytest.raises(RefusedError) as refused:
                await answer(client.push(0, [content]))
            assert refused.value.reason is Reason.INVALID
            await answer(client.push(0, [gradient(1.0)]))
        assert server.status(0).version == 1


async def test_without_a_lease_everything_waits() -> None:
    async with serving(lease=0.0) as (server, address):
        with connected(address) as client:
            pending = client.pull(0, [WISH])
            await counted(server, "refusals", 3)
            with pytest.raises(TimeoutError, match="do not answer"):
                pending.result(0.0)
            server.renew(0, 1, FOREVER)
            await answer(pending)


async def test_a_wrong_token_is_not_answered_and_the_end_is_told() -> None:
    async with serving() as (server, address):
        with connected(address, token="another") as client:
            pending = client.pull(0, [WISH])
            await counted(server, "bad_messages", 1)
        with pytest.raises(ClosedError):
            pending.result(20)
        client.close()
