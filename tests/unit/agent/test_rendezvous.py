import aiohttp
import pytest

from reknit.agent.listeners import open_listener
from reknit.agent.rendezvous import Rendezvous


@pytest.mark.parametrize("value", [b"", b"10.0.0.1:99\x00\xff"])
async def test_ranks_find_each_others_values(value: bytes) -> None:
    offer = open_listener("127.0.0.1")
    server = Rendezvous(offer.socket)
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://{offer.endpoint}") as session:
            async with session.get("/global_/0") as answer:
                assert answer.status == 404
            async with session.put("/global_/0", data=value) as answer:
                assert answer.status == 200
            async with session.delete("/global_/0") as answer:
                assert answer.status == 200
            async with session.get("/global_/0") as answer:
                assert (answer.status, await answer.read()) == (200, value)
            async with session.get("/local_/0") as answer:
                assert answer.status == 404
    finally:
        await server.stop()
    assert offer.socket.fileno() == -1
