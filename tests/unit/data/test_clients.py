"""Which clients take part, and with which samples."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reknit.data.clients import Clients, FederatedLoader, taking_part, who_takes_part
from reknit.data.datasets import Arrays
from reknit.data.drawing import Drawing
from reknit.errors import ConfigurationError
from reknit.protocol.settings import CommunicationSettings, RoundSettings

FEDERATED = CommunicationSettings(rounds=RoundSettings(local_steps=2, clients_per_round=2))


def loaded(owners, rank, num_ranks, *, rounds, start=0, per_round=2, passes=2, micro=2):
    data = Arrays(torch.arange(len(owners)))
    with FederatedLoader(
        Drawing(data, None, None),
        Clients(owners, len(owners), per_round),
        passes=passes,
        micro=micro,
        rank=rank,
        num_ranks=num_ranks,
        seed=3,
        shuffle=True,
        start_step=start,
        stop_step=rounds,
    ) as loader:
        return list(loader)


@given(st.integers(1, 40), st.data())
def test_as_many_clients_as_wanted_take_part(num_clients, data):
    per_round = data.draw(st.integers(1, num_clients))
    chosen = taking_part(range(num_clients), per_round, 0, data.draw(st.integers(0, 1000)))
    assert len(chosen) == len(set(chosen)) == per_round
    assert set(chosen) <= set(range(num_clients))


def test_every_client_takes_part_about_as_often():
    counts = Counter(c for step in range(2000) for c in taking_part(range(10), 3, 7, step))
    assert all(520 <= counts[client] <= 680 for client in range(10))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_any_world_has_the_same_clients_samples_and_weights(num_ranks):
    owners = [0] * 5 + [1] * 7 + [2] * 3 + [3] * 9
    alone = loaded(owners, 0, 1, rounds=12)
    divided = [loaded(owners, rank, num_ranks, rounds=12) for rank in range(num_ranks)]
    for step, whole in enumerate(alone):
        assert len({len(run[step].micro_batches) for run in divided}) == 1
        parts = [m for run in divided for m in run[step].micro_batches if m.index is not None]
        parts.sort(key=lambda micro_batch: micro_batch.index)
        assert [(m.sample_ids, m.weight) for m in parts] == [
            (m.sample_ids, m.weight) for m in whole.micro_batches
        ]
        assert sum(m.weight for m in parts) == pytest.approx(1)
    for rank, run in enumerate(divided):
        assert all(owners[s] % num_ranks == rank for batch in run for s in batch.sample_ids)


def test_a_client_uses_each_of_its_samples_once_before_any_again():
    owners = [0] * 6 + [1] * 10
    used = [s for batch in loaded(owners, 0, 1, rounds=15) for s in batch.sample_ids]
    for client, size in ((0, 6), (1, 10)):
        own = [sample for sample in used if owners[sample] == client]
        for first in range(0, len(own) - size + 1, size):
            assert len(set(own[first : first + size])) == size


def test_a_loader_that_starts_later_goes_on_alike():
    owners = [sample % 5 for sample in range(40)]
    whole = loaded(owners, 1, 2, rounds=9)
    later = loaded(owners, 1, 2, rounds=9, start=4)
    assert [b.sample_ids for b in later] == [b.sample_ids for b in whole[4:]]


def test_clients_and_federated_averaging_go_together():
    assert who_takes_part(CommunicationSettings(), None, 4) is None
    found = who_takes_part(FEDERATED, [0, 1, 1, 2], 4)
    assert found is not None
    assert found.samples == {0: [0], 1: [1, 2], 2: [3]}
    for communication, owners in ((FEDERATED, None), (CommunicationSettings(), [0, 0])):
        with pytest.raises(ConfigurationError, match="give both or neither"):
            who_takes_part(communication, owners, 2)
    with pytest.raises(ConfigurationError, match="3 entries for 4 samples"):
        who_takes_part(FEDERATED, [0, 1, 1], 4)
    with pytest.raises(ConfigurationError, match="1 clients with samples"):
        who_takes_part(FEDERATED, [0, 0], 2)
