import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reknit.checkpoint.manifest import (
    Manifest,
    PieceEntry,
    ShardEntry,
    coverage_gap,
    decode_manifest,
    dtype_of,
    encode,
    folder_name,
    parse_folder_name,
    tensor_entries,
)
from reknit.protocol.base import Generation
from reknit.state.description import TensorSpec, even_intervals

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def manifest(**changes):
    values = {
        "version": 3,
        "generation": Generation(incarnation=2, counter=5),
        "world_size": 1,
        "tensors": {},
        "scalars": {},
        "shards": (),
    }
    return Manifest(**values | changes)


def shard(*pieces):
    entries = tuple(PieceEntry(name=name, start=start, stop=stop) for name, start, stop in pieces)
    return ShardEntry(version=1, file="shard", size=0, crc32=0, pieces=entries)


@given(
    version=st.integers(0, 10**12), incarnation=st.integers(0, 10**6), counter=st.integers(0, 10**6)
)
def test_folder_names_round_trip(version, incarnation, counter):
    generation = Generation(incarnation=incarnation, counter=counter)
    assert parse_folder_name(folder_name(version, generation)) == (version, generation)


@pytest.mark.parametrize(
    "name", ["step-100.g1.1", "step-00000100", "step-00000100.g1.1.partial", "g1.1", "", "lost"]
)
def test_other_names_are_no_checkpoints(name):
    assert parse_folder_name(name) is None


@settings(max_examples=50)
@given(scalars=st.dictionaries(st.text(), json_values, max_size=4))
def test_every_scalar_comes_back_bit_for_bit(scalars):
    decoded = decode_manifest(encode(manifest(scalars=scalars)))
    # repr distinguishes 1 from 1.0 and -0.0 from 0.0, and finds NaN equal to itself.
    assert repr(decoded.scalars) == repr(scalars)


def test_specs_come_back():
    specs = {
        "a": TensorSpec((2, 3), torch.float32),
        "b": TensorSpec((), torch.bool),
        "c": TensorSpec((0,), torch.bfloat16),
    }
    assert decode_manifest(encode(manifest(tensors=tensor_entries(specs)))).specs == specs


@pytest.mark.parametrize("name", ["float3", "nn", "Tensor", ""])
def test_unknown_number_formats_are_refused(name):
    with pytest.raises(ValueError, match=f"no number format '{name}'"):
        dtype_of(name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "format is 2, this version reads 1"),
        ({"version": "x"}, "1 fields are missing or wrong"),
        ({"tensors": {"a": {"shape": [1], "dtype": "float3"}}}, "no number format"),
    ],
)
def test_strange_manifests_are_refused(change, sentence):
    data = json.loads(encode(manifest())) | change
    with pytest.raises(ValueError, match=sentence):
        decode_manifest(json.dumps(data).encode())


SPECS = {"a": TensorSpec((5, 2), torch.float32), "n": TensorSpec((), torch.int64)}


@given(world=st.integers(1, 13), data=st.data())
def test_any_division_of_the_state_is_complete(world, data):
    pieces = [
        (name, interval.start, interval.stop)
        for name, spec in SPECS.items()
        for interval in even_intervals(spec.num_elements, world)
        if len(interval)
    ]
    owners = data.draw(st.lists(st.integers(0, world), min_size=len(pieces), max_size=len(pieces)))
    shards = [
        shard(*(piece for piece, owner in zip(pieces, owners, strict=True) if owner == rank))
        for rank in range(world + 1)
    ]
    assert coverage_gap(SPECS, shards) is None
    dropped = data.draw(st.sampled_from(pieces))
    without = [
        shard(
            *((p.name, p.start, p.stop) for p in s.pieces if (p.name, p.start, p.stop) != dropped)
        )
        for s in shards
    ]
    assert coverage_gap(SPECS, without) == f"element {dropped[1]} of {dropped[0]} is in no shard"


@pytest.mark.parametrize(
    ("shards", "sentence"),
    [
        ([[("a", 0, 10)]], "element 0 of n is in no shard"),
        ([[("a", 0, 4), ("n", 0, 1)], [("a", 5, 10)]], "element 4 of a is in no shard"),
        ([[("a", 0, 6), ("n", 0, 1)], [("a", 4, 10)]], "elements 4 to 6 of a are in two shards"),
        ([[("a", 0, 10), ("n", 0, 1)], [("n", 0, 1)]], "elements 0 to 1 of n are in two shards"),
        ([[("a", 0, 10), ("n", 0, 1), ("z", 0, 1)]], "z is in a shard but not part of the state"),
    ],
)
def test_gaps_and_overlaps_are_named(shards, sentence):
    assert coverage_gap(SPECS, [shard(*pieces) for pieces in shards]) == sentence
