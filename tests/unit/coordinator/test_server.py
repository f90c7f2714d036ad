"""A real server on loopback with made-up agents; every wait is for a message or a condition."""

import asyncio
import os
import signal
import socket
import sys

import aiohttp
import pytest

from reknit.coordinator import environment
from reknit.coordinator.server import Server
from reknit.errors import ConfigurationError
from reknit.protocol.agents import (
    TO_AGENT,
    Begin,
    Conclude,
    FromSlot,
    Heartbeat,
    Refuse,
    Register,
    Welcome,
)
from reknit.protocol.base import Endpoint
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import Finished, Resumed, StepDone
from reknit.protocol.settings import JobSettings
from reknit.protocol.status import CoordinatorStatus, History

TOKEN = "s3cret-of-the-job"
SETTINGS = JobSettings(name="gpt", function="m:f", num_workers=2)
STORE = Endpoint(host="127.0.0.1", port=4000)


class Client:
    """One session towards a server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"})

    async def get(self, path: str) -> str:
        async with self.session.get(self.url + path) as response:
            assert response.status == 200
            return await response.text()

    async def agent(self, replica: int, **more) -> "FakeAgent":
        agent = FakeAgent(await self.session.ws_connect(self.url + "/agent"))
        fields = {"node": "n", "host": "127.0.0.1", "num_slots": 1, "promised": 0, "slots": ()}
        message = Register(
            **{"agent": f"w{replica}", "replica": replica, "store": STORE, **fields, **more}
        )
        await agent.say(message)
        return agent


class FakeAgent:
    def __init__(self, websocket) -> None:
        self.websocket = websocket

    async def say(self, message) -> None:
        await self.websocket.send_str(message.model_dump_json())

    async def hear(self):
        text = await asyncio.wait_for(self.websocket.receive_str(), 10)
        return TO_AGENT.validate_json(text)

    async def ended(self):
        return (await asyncio.wait_for(self.websocket.receive(), 10)).type


@pytest.fixture
async def server():
    server = Server(SETTINGS, token=TOKEN, incarnation=3)
    port = await server.start("127.0.0.1", 0)
    running = asyncio.create_task(server.run())
    client = Client(port)
    client.server, client.running = server, running
    yield client
    await client.session.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.close()


async def test_a_job_from_registration_to_conclusion(server) -> None:
    agents = [await server.agent(0), await server.agent(1)]
    for agent in agents:
        assert await agent.hear() == Welcome(incarnation=3)
    begin = await agents[0].hear()
    assert isinstance(begin, Begin)
    assert await agents[1].hear() == begin
    generation = begin.generation
    resumed = Resumed(generation=generation, step=0, source="beginning")
    await agents[0].say(FromSlot(rank=0, message=resumed))
    for rank, agent in enumerate(agents):
        loss = {"loss": float("nan") if rank else 2.0}
        done = StepDone(generation=generation, step=1, metrics=loss)
        await agent.say(FromSlot(rank=rank, message=done))
        finished = Finished(generation=generation, step=1)
        await agent.say(FromSlot(rank=rank, message=finished))
    for agent in agents:
        concluded = await agent.hear()
        assert isinstance(concluded, Conclude)
        assert concluded.conclusion.exit_class is ExitClass.SUCCEEDED
    status = CoordinatorStatus.model_validate_json(await server.get("/status"))
    assert status.conclusion == concluded.conclusion
    assert [rank.agent for rank in status.ranks] == ["w0", "w1"]
    history = History.model_validate_json(await server.get("/history?after=0"))
    kinds = [getattr(record, "reason", "step") for record in history.records]
    assert kinds == [
        "AgentJoined",
        "AgentJoined",
        "GenerationBegun",
        "Resumed",
        "step",
        "Concluded",
    ]
    rest = History.model_validate_json(await server.get(f"/history?after={history.next}"))
    assert rest.records == ()
    assert "reknit_step 1.0" in await server.get("/metrics")


@pytest.mark.parametrize("path", ["/status", "/history", "/agent"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", TOKEN, "Bearer " + TOKEN + "\xff"])
async def test_without_the_token_nothing_is_told(server, path, header, caplog) -> None:
    headers = {"Authorization": header} if header else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.url + path, headers=headers) as response,
    ):
        assert response.status == 401
        assert TOKEN not in await response.text()
    assert TOKEN not in caplog.text


async def test_health_and_metrics_are_open(server) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/metrics"):
            async with session.get(server.url + path) as response:
                assert response.status == 200


async def test_a_position_that_is_no_number_is_refused(server) -> None:
    async with server.session.get(server.url + "/history?after=-1") as response:
        assert response.status == 400


async def test_what_is_no_message_ends_the_connection(server) -> None:
    agent = await server.agent(0)
    await agent.hear()
    await agent.websocket.send_str('{"kind": "nonsense"}')
    assert await agent.ended() in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_a_refused_agent_hears_why_before_the_connection_closes(server) -> None:
    agent = await server.agent(5)
    refusal = await agent.hear()
    assert isinstance(refusal, Refuse)
    assert refusal.final
    assert await agent.ended() is aiohttp.WSMsgType.CLOSE


async def test_a_higher_promise_ends_the_server(server) -> None:
    agent = await server.agent(0, promised=4)
    assert isinstance(await agent.hear(), Refuse)
    assert await asyncio.wait_for(server.running, 10) == 4


async def test_an_agent_that_falls_silent_is_given_up(server) -> None:
    silent = await server.agent(1)
    await silent.hear()
    agent = await server.agent(0)
    assert [type(await agent.hear()) for _ in range(2)] == [Welcome, Begin]
    beat = Heartbeat(slots=(), store=STORE)

    async def heartbeats() -> None:
        while "w1" in server.server._state.agents:
            await agent.say(beat)
            await asyncio.sleep(0.1)

    await asyncio.wait_for(heartbeats(), 10)
    assert "w0" in server.server._state.agents
    assert (await agent.hear()).kind == "end"


async def test_the_operators_word_on_a_pod_is_taken(server) -> None:
    async with server.session.post(server.url + "/gone?agent=w1") as response:
        assert response.status == 204
    assert server.server._state.gone == {"w1"}
    async with server.session.post(server.url + "/gone") as response:
        assert response.status == 400


async def test_a_pod_that_is_connected_is_to_be_confirmed_again(server) -> None:
    agent = await server.agent(0)
    await agent.hear()
    async with server.session.post(server.url + "/gone?agent=w0") as response:
        assert response.status == 409
    assert server.server._state.gone == frozenset()
    assert "w0" in server.server._state.agents


async def test_a_stop_closes_the_connections_and_says_nothing(server) -> None:
    agent = await server.agent(0)
    await agent.hear()
    closing = asyncio.create_task(server.server.close())
    message = await asyncio.wait_for(agent.websocket.receive(), 10)
    await closing
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert message.data == aiohttp.WSCloseCode.GOING_AWAY


GOOD = {
    "REKNIT_JOB": SETTINGS.model_dump_json(),
    "REKNIT_TOKEN": TOKEN,
    "REKNIT_POD_IP": "127.0.0.1",
    "REKNIT_INCARNATION": "1",
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"REKNIT_JOB": ""}, "the environment variable REKNIT_JOB is not set"),
        ({"REKNIT_TOKEN": ""}, "the environment variable REKNIT_TOKEN is not set"),
        ({"REKNIT_JOB": "{}"}, "REKNIT_JOB is not a job: name: Field required"),
        ({"REKNIT_INCARNATION": "x"}, "REKNIT_INCARNATION must be a number from 1 on"),
        ({"REKNIT_INCARNATION": "0"}, "REKNIT_INCARNATION must be a number from 1 on"),
    ],
)
def test_a_bad_environment_is_one_sentence(change, sentence) -> None:
    with pytest.raises(ConfigurationError) as raised:
        environment.read({**GOOD, **change})
    assert str(raised.value) == sentence


def test_the_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(environment.read(GOOD))


async def start(**change):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "reknit.coordinator",
        env={**os.environ, **GOOD, **change},
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_port_in_use_is_one_sentence_and_status_2() -> None:
    with socket.create_server(("127.77.3.1", 7070)):
        process = await start(REKNIT_POD_IP="127.77.3.1")
        _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert errors.decode() == (
        "the coordinator cannot listen on 127.77.3.1:7070: Address already in use\n"
    )


async def test_sigterm_is_a_clean_stop() -> None:
    process = await start(REKNIT_POD_IP="127.77.3.2")
    line = await asyncio.wait_for(process.stderr.readline(), 30)
    assert b"Coordinator 1 listens on 127.77.3.2:7070." in line
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert TOKEN.encode() not in line + errors


def test_neither_torch_nor_any_io_is_in_the_state_machine() -> None:
    import subprocess

    pure = "membership view history policy"
    code = (
        "import sys, importlib\n"
        f"for name in '{pure}'.split(): importlib.import_module('reknit.coordinator.' + name)\n"
        "bad = {'torch', 'aiohttp', 'asyncio', 'prometheus_client'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        "import reknit.coordinator.__main__\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
