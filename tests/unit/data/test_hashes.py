import json
import os

import pytest
import torch

from reknit.data.hashes import WeightHashes, weight_hash
from reknit.protocol.base import Generation
from reknit.protocol.settings import ENV_HASHES
from reknit.state.description import Interval, LocalState, Piece, TensorSpec

GENERATION = Generation(incarnation=1, counter=3)


def state(weights, *, name="param/w", start=0, dtype=torch.float32, moment=0.0):
    data = torch.tensor(weights, dtype=dtype)
    stop = start + len(weights)
    pieces = [
        Piece(name, Interval(start, stop), data),
        Piece(f"optimizer/exp_avg/{name}", Interval(0, 1), torch.tensor([moment])),
    ]
    return LocalState({name: TensorSpec((stop,), dtype)}, pieces, pieces)


def test_equal_weights_have_equal_hashes():
    assert weight_hash(state([1.0, 2.0])) == weight_hash(state([1.0, 2.0]))


@pytest.mark.parametrize(
    "other",
    [
        state([1.0, 2.0000002]),
        state([2.0, 1.0]),
        state([1.0, 2.0], start=1),
        state([1.0, 2.0], name="param/v"),
        state([1.0, 2.0], dtype=torch.bfloat16),
    ],
    ids=["one bit", "order", "interval", "name", "dtype"],
)
def test_whatever_differs_in_the_weights_changes_the_hash(other):
    assert weight_hash(state([1.0, 2.0])) != weight_hash(other)


def test_the_sign_of_zero_is_a_difference():
    assert weight_hash(state([0.0])) != weight_hash(state([-0.0]))


def test_the_optimizer_is_left_out():
    assert weight_hash(state([1.0], moment=0.0)) == weight_hash(state([1.0], moment=1.0))


def test_lines_name_version_rank_and_generation(tmp_path):
    hashes = WeightHashes(tmp_path / "hashes")
    hashes.record(4, state([1.0]), rank=2, generation=GENERATION)
    hashes.record(5, state([2.0]), rank=2, generation=GENERATION)
    hashes.close()
    text = (tmp_path / "hashes" / f"{os.getpid()}.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        {"version": version, "rank": 2, "generation": "1.3", "hash": weight_hash(state([weight]))}
        for version, weight in [(4, 1.0), (5, 2.0)]
    ]


def test_the_environment_says_whether_and_where(tmp_path, monkeypatch):
    monkeypatch.delenv(ENV_HASHES, raising=False)
    hashes = WeightHashes.from_environment()
    assert not hashes.wanted
    hashes.record(1, state([1.0]), rank=0, generation=GENERATION)
    monkeypatch.setenv(ENV_HASHES, str(tmp_path))
    hashes = WeightHashes.from_environment()
    assert hashes.wanted
    hashes.record(1, state([1.0]), rank=0, generation=GENERATION)
    hashes.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{os.getpid()}.jsonl"]
    assert len((tmp_path / f"{os.getpid()}.jsonl").read_text().splitlines()) == 1
