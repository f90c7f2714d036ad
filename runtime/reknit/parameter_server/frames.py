"""Messages on the wire: a small JSON header, then the raw bytes of each tensor.

Nothing is unpickled. Tensors are neither copied when they are sent nor when they are received; what
is received must therefore not be written to.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeAlias

import torch
from pydantic import TypeAdapter, ValidationError

from reknit.checkpoint.shards import DTYPE_CODES
from reknit.parameter_server import messages
from reknit.protocol.base import Json

MAX_HEADER_BYTES: Final = 1 << 20
MAX_TENSORS: Final = 4096

WireMessage: TypeAlias = messages.Request | messages.Reply | messages.PeerMessage
_KINDS: Final[Mapping[str, TypeAdapter[Any]]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (
        messages.Request,
        messages.Acknowledged,
        messages.Pulled,
        messages.Joined,
        messages.Described,
        messages.Refused,
        messages.Append,
        messages.Probe,
        messages.Position,
        messages.Snapshot,
    )
}
_DTYPES: Final = {code: dtype for dtype, code in DTYPE_CODES.items()}
Buffer: TypeAlias = bytes | memoryview


class BadMessageError(Exception):
    """Something that no server or worker of this job has sent; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message with what it comes with."""

    sender: str
    """The name of a server or of a worker's process."""
    number: int
    """The range that it concerns."""
    message: WireMessage
    tensors: Mapping[str, torch.Tensor]
    scalars: Mapping[str, Json]
    """What comes with a snapshot and is no tensor."""


def encode(parcel: Parcel, token: str) -> list[Buffer]:
    """The frames of a message; those of tensors are views of their memory."""
    kind = type(parcel.message).__name__
    header = {
        "token": token,
        "sender": parcel.sender,
        "range": parcel.number,
        "kind": kind,
        "body": _KINDS[kind].dump_python(parcel.message, mode="json"),
        "tensors": [
            [name, DTYPE_CODES[tensor.dtype], list(tensor.shape)]
            for name, tensor in parcel.tensors.items()
        ],
        "scalars": dict(parcel.scalars),
    }
    frames: list[Buffer] = [json.dumps(header, separators=(",", ":")).encode()]
    return frames + [_bytes(tensor) for tensor in parcel.tensors.values()]


def decode(frames: Sequence[memoryview], token: str) -> Parcel:
    """The message in `frames`; its tensors are views of them.

    Raises:
        BadMessageError: it is not one, or comes from someone who does not know the token.
    """
    if not frames or len(frames) > MAX_TENSORS + 1 or len(frames[0]) > MAX_HEADER_BYTES:
        raise BadMessageError("it has too many parts, or a header that is too long")
    try:
        header = json.loads(bytes(frames[0]))
    except (ValueError, RecursionError):
        raise BadMessageError("the header is no JSON") from None
    match header:
        case {
            "token": str(given),
            "sender": str(sender),
            "range": int(number),
            "kind": str(kind),
            "body": body,
            "tensors": list(described),
            "scalars": dict(scalars),
        } if kind in _KINDS:
            pass
        case _:
            raise BadMessageError("the header is not understood")
    if not hmac.compare_digest(given.encode(errors="surrogatepass"), token.encode()):
        raise BadMessageError("the token is wrong")
    try:
        message = _KINDS[kind].validate_python(body)
    except ValidationError:
        raise BadMessageError(f"the {kind} is not understood") from None
    return Parcel(sender, number, message, _tensors(described, frames[1:]), scalars)


def num_bytes(frames: Sequence[Buffer]) -> int:
    """What a message takes on the wire, apart from the transport's own few bytes."""
    return sum(len(frame) for frame in frames)


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().contiguous().view(-1)
    found: memoryview = flat.view(torch.uint8).numpy().data
    return found


def _tensors(described: list[Any], frames: Sequence[memoryview]) -> dict[str, torch.Tensor]:
    if len(described) != len(frames):
        raise BadMessageError("tensors and frames differ in number")
    found = {}
    for entry, frame in zip(described, frames, strict=True):
        match entry:
            case [str(name), str(code), list(shape)] if code in _DTYPES:
                dtype = _DTYPES[code]
            case _:
                raise BadMessageError("a tensor is not described")
        if not all(type(side) is int and 0 <= side < 1 << 40 for side in shape):
            raise BadMessageError(f"the tensor {name} has no proper shape")
        if prod(shape) * dtype.itemsize != len(frame):
            raise BadMessageError(f"the tensor {name} does not have the bytes of its shape")
        if len(frame):
            found[name] = torch.frombuffer(frame, dtype=dtype).view(shape)
        else:
            found[name] = torch.empty(shape, dtype=dtype)
    return found
