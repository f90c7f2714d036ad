"""What goes over the wire, and what is refused."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reknit.parameter_server.compression import compress
from reknit.parameter_server.formats import Compression
from reknit.parameter_server.frames import BadMessageError, Parcel, decode, encode
from reknit.parameter_server.messages import (
    Acknowledged,
    Append,
    Joined,
    Kind,
    Position,
    Probe,
    Pulled,
    Reason,
    Refused,
    Request,
    Snapshot,
)
from reknit.parameter_server.packing import pack, unpack
from reknit.parameter_server.table import Pushed, Seated, Table
from reknit.parameter_server.views import Member

TOKEN = "a-token"
GRADIENT = {"dense": torch.arange(5.0), "rows/1": torch.tensor([2, 4])}
PUSHED = Pushed(1, 2, 3, GRADIENT)
TABLE = Table(7, 2, 3, {0: 4, 1: 3}, (Member(0, 1), Member(1, 2, 5)), {1: PUSHED})
MESSAGES = [
    Request(Kind.PUSH, 1, 2, 3, 4, 5, 6),
    Acknowledged(1),
    Pulled(1, 2),
    Joined(1, 3, 2),
    Refused(1, Reason.GONE),
    Append(1, 2, 3, 4, PUSHED, None),
    Append(1, 2, 3, 4, Seated((Member(0, 1),)), 9),
    Probe(1, 2, 3),
    Position(1, -1, 0, True, 4),
    Snapshot(1, TABLE),
]


def received(frames) -> list[memoryview]:
    """As a socket hands them out."""
    return [memoryview(bytearray(frame)) for frame in frames]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_arrive_as_they_were_sent(message):
    packed, tensors = pack(message, {"extra": torch.tensor([1.5], dtype=torch.bfloat16)})
    sent = encode(Parcel("a", 3, packed, tensors, {"optimizer": [1, None]}), TOKEN)
    parcel = decode(received(sent), TOKEN)
    assert (parcel.sender, parcel.number, parcel.scalars) == ("a", 3, {"optimizer": [1, None]})
    assert parcel.tensors["extra"].dtype == torch.bfloat16
    found = unpack(parcel.message, parcel.tensors)
    assert found == message
    for push in gradients(found):
        assert torch.equal(push.payload["dense"], GRADIENT["dense"])
        assert torch.equal(push.payload["rows/1"], GRADIENT["rows/1"])


def gradients(message):
    if isinstance(message, Append) and isinstance(message.entry, Pushed):
        return [message.entry]
    return list(message.table.pending.values()) if isinstance(message, Snapshot) else []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3)])
def test_tensors_of_any_shape_arrive(dtype, shape):
    tensor = torch.ones(shape, dtype=dtype)
    parcel = Parcel("a", 0, Acknowledged(1), {"t": tensor}, {})
    found = decode(received(encode(parcel, TOKEN)), TOKEN).tensors["t"]
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


def test_nothing_is_copied_on_the_way_out():
    tensor = torch.zeros(1000)
    frames = encode(Parcel("a", 0, Acknowledged(1), {"t": tensor}, {}), TOKEN)
    tensor.fill_(1.0)
    assert decode(received(frames), TOKEN).tensors["t"].sum() == 1000


def header(**changes) -> bytes:
    known = {
        "token": TOKEN,
        "sender": "a",
        "range": 0,
        "kind": "Acknowledged",
        "body": {"request": 1},
        "tensors": [],
        "scalars": {},
    }
    return json.dumps({k: v for k, v in (known | changes).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        ([], "too many parts"),
        ([b"x" * (1 << 20), b""], "no JSON"),
        ([b" " * ((1 << 20) + 1)], "too long"),
        ([b"{"], "no JSON"),
        ([b"[" * 100_000], "no JSON"),
        ([b"\xff\xfe"], "no JSON"),
        ([b"[]"], "not understood"),
        ([header(token=None)], "not understood"),
        ([header(token=5)], "not understood"),
        ([header(token="another")], "token is wrong"),
        ([header(token="\ud800")], "token is wrong"),
        ([header(kind="Eval")], "not understood"),
        ([header(kind=["Eval"])], "not understood"),
        ([header(range="0")], "not understood"),
        ([header(body={"request": "many"})], "Acknowledged is not understood"),
        ([header(body=None)], "not understood"),
        ([header(), b"more"], "differ in number"),
        ([header(tensors=[["t", "F32", [2]]]), b"1234"], "bytes of its shape"),
        ([header(tensors=[["t", "F31", [1]]]), b"1234"], "not described"),
        ([header(tensors=[["t", "F32"]]), b"1234"], "not described"),
        ([header(tensors=[["t", "F32", [-1, -1]]]), b"1234"], "no proper shape"),
        ([header(tensors=[["t", "F32", [True]]]), b"1234"], "no proper shape"),
        ([header(tensors=[["t", "F32", [1 << 50]]]), b"1234"], "no proper shape"),
        ([header()] + [b""] * 5000, "too many parts"),
    ],
)
def test_bad_messages_are_refused_with_a_reason(frames, problem):
    with pytest.raises(BadMessageError, match=problem):
        decode(received(frames), TOKEN)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_is_refused(frames):
    with pytest.raises(BadMessageError):
        decode(received(frames), TOKEN)


@given(st.data())
def test_a_damaged_message_is_refused_or_is_another_message(data):
    frames = encode(Parcel("a", 0, MESSAGES[0], GRADIENT, {}), TOKEN)
    damaged = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(received([bytes(damaged), *frames[1:]]), TOKEN)
    except BadMessageError:
        return
    assert isinstance(found, Parcel)


@pytest.mark.parametrize(
    ("compression", "dtype"),
    [
        (Compression.NONE, torch.float32),
        (Compression.FP16, torch.float16),
        (Compression.BF16, torch.bfloat16),
    ],
)
def test_compressed_gradients_are_rounded_once(compression, dtype):
    gradient = torch.randn(100, generator=torch.Generator().manual_seed(0))
    found = compress(gradient, compression)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), gradient, rtol=2**-8, atol=0.0)
