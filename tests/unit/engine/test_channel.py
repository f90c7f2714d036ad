import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.ranks import (
    FROM_RANK,
    Abort,
    Assign,
    Beat,
    Evaluated,
    Leave,
    Phase,
    Release,
)
from reknit.rank.channel import Channel

ASSIGN = Assign(
    generation=Generation(incarnation=1, counter=1),
    rank=0,
    world_size=1,
    local_rank=0,
    local_world_size=1,
    group_rank=0,
    store=Endpoint(host="127.0.0.1", port=1),
)
NEXT = ASSIGN.model_copy(update={"generation": Generation(incarnation=1, counter=2)})


class Agent:
    def __init__(self, line: socket.socket) -> None:
        line.settimeout(30)
        self.line = line
        self.lines = line.makefile("rb")

    def send(self, message, attached=None) -> None:
        data = message.model_dump_json().encode() + b"\n"
        socket.send_fds(self.line, [data], [] if attached is None else [attached.fileno()])

    def hear(self):
        return FROM_RANK.validate_json(next(self.lines))

    def close(self) -> None:
        self.lines.close()
        self.line.close()


@pytest.fixture
def ends() -> Iterator[tuple[Agent, Channel]]:
    ours, theirs = socket.socketpair()
    agent = Agent(ours)
    aborted: list[Generation] = []
    channel = Channel(theirs, heartbeat=timedelta(milliseconds=20), on_abort=aborted.append)
    channel.aborted = aborted
    yield agent, channel
    agent.close()


def test_a_place_comes_with_the_listener_of_its_store(ends):
    agent, channel = ends
    channel.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        agent.send(ASSIGN, listener)
        assign, received = channel.take_place()
        assert assign == ASSIGN
        with received:
            assert received.getsockname() == listener.getsockname()
    agent.send(NEXT)
    assert channel.take_place() == (NEXT, None)
    channel.close()


@pytest.mark.parametrize("message", [None, Release(), Leave(reason="evicted")])
def test_without_a_place_there_is_nothing_to_do(ends, message):
    agent, channel = ends
    channel.start()
    if message is None:
        agent.close()
    else:
        agent.send(message)
    assert channel.take_place() is None
    channel.close()


def test_an_abort_is_heard_at_once_and_names_its_generation(ends):
    agent, channel = ends
    channel.start()
    agent.send(ASSIGN)
    channel.take_place()
    agent.send(Abort(generation=ASSIGN.generation, reason="a rank has died"))
    assert channel.wait_for_abort(ASSIGN.generation)
    assert not channel.wait_for_release(ASSIGN.generation)
    assert channel.aborted == [ASSIGN.generation]
    assert channel.is_aborted(ASSIGN.generation)
    assert not channel.is_aborted(NEXT.generation)
    channel.close()


def test_beats_say_what_the_rank_does(ends):
    agent, channel = ends
    agent.send(ASSIGN)
    channel.start()
    assert agent.hear() == Beat(phase=Phase.STARTING, step=0)
    channel.enter(Phase.STEP, 5)
    while (beat := agent.hear()).phase is Phase.STARTING:
        pass
    assert beat == Beat(phase=Phase.STEP, step=5)
    channel.close()


def test_messages_keep_their_order_and_are_sent_before_the_end(ends):
    agent, channel = ends
    agent.send(ASSIGN)
    channel.start()
    told = [Evaluated(step=step, metrics={"loss": 1.0}) for step in range(200)]
    for message in told:
        channel.tell(message)
    channel.close()
    heard = [FROM_RANK.validate_json(line) for line in agent.lines]
    assert [message for message in heard if isinstance(message, Evaluated)] == told


def test_leave_and_release(ends):
    agent, channel = ends
    agent.send(ASSIGN)
    channel.start()
    assert not channel.leaving
    agent.send(Leave(reason="evicted"))
    agent.send(Release())
    assert channel.wait_for_release(ASSIGN.generation)
    assert channel.leaving
    assert channel.released
    channel.close()


def test_an_agent_that_goes_does_not_release(ends):
    agent, channel = ends
    agent.send(ASSIGN)
    channel.start()
    agent.close()
    assert channel.wait_for_release(ASSIGN.generation)
    assert not channel.released
    channel.tell(Evaluated(step=1, metrics={}))
    channel.close()
