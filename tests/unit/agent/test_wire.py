import os
import socket

import pytest

from reknit.agent import wire


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def test_packets_keep_their_boundaries_and_descriptors() -> None:
    near, far = pair()
    reader, writer = os.pipe()
    messages = [
        wire.StartProcess(launch=1, title="rank 0", environment={"A": "b"}),
        wire.SignalProcess(launch=1, signal=9),
    ]
    with near, far:
        wire.send(near, messages[0], [reader])
        wire.send(near, messages[1])
        first, descriptors = wire.receive(far)
        second, none = wire.receive(far)
    assert [wire.TO_FORKSERVER.validate_json(packet) for packet in (first, second)] == messages
    assert none == []
    [received] = descriptors
    assert not os.get_inheritable(received)
    os.write(writer, b"through")
    assert os.read(received, 100) == b"through"
    wire.close_all([reader, writer, received])


def test_the_end_of_the_other_side_is_an_empty_packet() -> None:
    near, far = pair()
    near.close()
    with far:
        assert wire.receive(far) == (b"", [])


def test_what_was_sent_is_received_though_the_sender_died_without_reading() -> None:
    near, far = pair()
    ended = wire.ProcessEnded(launch=1, exit_code=0)
    wire.send(far, wire.SignalProcess(launch=1, signal=9))
    wire.send(near, ended)
    near.close()
    with far:
        packet, _ = wire.receive(far)
        assert wire.FROM_FORKSERVER.validate_json(packet) == ended
        assert wire.receive(far) == (b"", [])


def test_an_empty_socket_does_not_block() -> None:
    near, far = pair()
    far.setblocking(False)
    with near, far, pytest.raises(BlockingIOError):
        wire.receive(far)
