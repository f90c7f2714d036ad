import socket
from random import Random

import pytest

from reknit.agent import listeners
from reknit.errors import ReknitError
from reknit.protocol.settings import Framework, JobSettings


def test_a_listener_takes_connections_before_anybody_serves() -> None:
    offer = listeners.open_listener("127.0.0.1")
    with offer.socket, socket.create_connection((offer.endpoint.host, offer.endpoint.port)) as end:
        end.sendall(b"early")
        accepted, _ = offer.socket.accept()
        with accepted:
            assert accepted.recv(5) == b"early"


def test_offers_differ() -> None:
    first, second = (listeners.open_listener("127.0.0.1") for _ in range(2))
    with first.socket, second.socket:
        assert first.endpoint != second.endpoint


def test_an_address_of_another_machine_cannot_be_offered() -> None:
    with pytest.raises(OSError, match="assign"):
        listeners.open_listener("192.0.2.1")


def test_a_reserved_port_refuses_connections_and_is_free_once_released() -> None:
    offer = listeners.reserve_ports("127.0.0.1", 1, Random(1))
    address = (offer.endpoint.host, offer.endpoint.port)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", offer.endpoint.port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    offer.socket.close()
    with socket.socket() as program:
        program.bind(("", offer.endpoint.port))
        program.listen()
        socket.create_connection(address).close()


def test_a_block_with_a_taken_port_is_passed_over() -> None:
    first = listeners.reserve_ports("127.0.0.1", 3, Random(7))
    with first.socket:
        second = listeners.reserve_ports("127.0.0.1", 3, Random(7))
        with second.socket:
            assert first.endpoint.port not in range(second.endpoint.port, second.endpoint.port + 3)


def test_ports_stay_clear_of_those_for_outgoing_connections() -> None:
    offer = listeners.reserve_ports("127.0.0.1", 100, Random(3))
    with offer.socket:
        assert offer.endpoint.port in listeners.COMMAND_PORTS
        assert offer.endpoint.port + 99 in listeners.COMMAND_PORTS


def test_giving_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_bind", lambda _ports: None)
    with pytest.raises(ReknitError, match="no 4 consecutive ports are free"):
        listeners.reserve_ports("127.0.0.1", 4, Random(1))


@pytest.mark.parametrize(
    ("framework", "expected"),
    [(Framework.PYTORCH, 1), (Framework.JAX, 1), (Framework.TENSORFLOW, 6)],
)
def test_only_tensorflow_needs_a_port_for_each_rank(framework: Framework, expected: int) -> None:
    settings = JobSettings(name="job", framework=framework, num_workers=3, processes_per_worker=2)
    assert listeners.num_command_ports(settings) == expected
