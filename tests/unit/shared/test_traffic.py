"""What ranks send, against figures worked out by hand."""

import pytest

from reknit.protocol.settings import (
    CommunicationSettings,
    Compression,
    RoundSettings,
    WorkerState,
)
from reknit.traffic import Traffic, is_factored, traffic

SHAPES = ((100, 40), (100,))
"""4100 elements, 16400 bytes; around a ring of 4 each rank sends half as much again."""


def rounds(**changes: object) -> CommunicationSettings:
    return CommunicationSettings(rounds=RoundSettings(local_steps=10, **changes))


@pytest.mark.parametrize(
    ("communication", "expected"),
    [
        (CommunicationSettings(), Traffic(24600, 0, 24600)),
        (CommunicationSettings(compression=Compression.BF16), Traffic(12300, 0, 24600)),
        # Two factors of (100 + 40) x 2, and the vector.
        (
            CommunicationSettings(compression=Compression.POWER_SGD, power_sgd_rank=2),
            Traffic(2280, 0, 24600),
        ),
        # Adam remembers two tensors.
        (rounds(), Traffic(24600, 32800, 246000)),
        (rounds(worker_state=WorkerState.FRESH), Traffic(24600, 0, 246000)),
        # Eight clients are as many steps of four ranks as two rounds of these.
        (rounds(worker_state=WorkerState.FRESH, clients_per_round=8), Traffic(24600, 0, 492000)),
    ],
)
def test_bytes_per_step_or_round(communication, expected):
    found = traffic(SHAPES, communication, num_ranks=4, optimizer_tensors=2, copies=1)
    assert found == expected


def test_one_rank_sends_nothing():
    found = traffic(SHAPES, rounds(), num_ranks=1, optimizer_tensors=2, copies=1)
    assert (found.sent, found.ratio) == (0, 1.0)


def test_a_matrix_is_factored_where_that_is_smaller():
    assert is_factored((100, 40), 28)
    assert not is_factored((100, 40), 29)
    assert not is_factored((1000,), 1)
    assert not is_factored((), 1)
