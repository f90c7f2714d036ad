import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.ranks import (
    FROM_RANK,
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


class Agent:
    def __init__(self, line: socket.socket) -> None:
        line.settimeout(30)
        self.line = line
        self.lines = line.makefile("rb")

    def send(self, message) -> None:
        self.line.sendall(message.model_dump_json().encode() + b"\n")

    def hear(self):
        return FROM_RANK.validate_json(next(self.lines))

    def close(self) -> None:
        self.lines.close()
        self.line.close()


@pytest.fixture
def ends() -> Iterator[tuple[Agent, Channel]]:
    ours, theirs = socket.socketpair()
    agent = Agent(ours)
    yield agent, Channel(theirs, heartbeat=timedelta(milliseconds=20))
    agent.close()


def test_the_first_message_is_the_place(ends):
    agent, channel = ends
    agent.send(ASSIGN)
    assert channel.start() == ASSIGN
    channel.close()


@pytest.mark.parametrize("first", [None, Release()])
def test_without_a_place_there_is_nothing_to_do(ends, first):
    agent, channel = ends
    if first is None:
        agent.close()
    else:
        agent.send(first)
    with pytest.raises(ConnectionError):
        channel.start()


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
    assert channel.wait_for_release()
    assert channel.leaving
    channel.close()


def test_an_agent_that_goes_does_not_release(ends):
    agent, channel = ends
    agent.send(ASSIGN)
    channel.start()
    channel.wait_for_end(timedelta(0))
    agent.close()
    assert not channel.wait_for_release()
    channel.tell(Evaluated(step=1, metrics={}))
    channel.close()
