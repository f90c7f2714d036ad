"""Messages between the copies of a range carry gradients inside; on the wire these lie beside."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch

from reknit.parameter_server.messages import Append, PeerMessage, Snapshot
from reknit.parameter_server.table import Pushed

Tensors = Mapping[str, torch.Tensor]


def pack(message: PeerMessage, tensors: Tensors) -> tuple[PeerMessage, dict[str, torch.Tensor]]:
    """Takes the gradients out of a message and puts them to the tensors that it comes with."""
    packed = dict(tensors)
    if isinstance(message, Append) and isinstance(message.entry, Pushed):
        packed |= _gradient(message.entry)
        return replace(message, entry=replace(message.entry, payload=None)), packed
    if isinstance(message, Snapshot):
        for worker, push in message.table.pending.items():
            for name, tensor in _gradient(push).items():
                packed[f"pending/{worker}/{name}"] = tensor
        pending = {w: replace(push, payload=None) for w, push in message.table.pending.items()}
        return replace(message, table=replace(message.table, pending=pending)), packed
    return message, packed


def unpack(message: PeerMessage, tensors: Tensors) -> PeerMessage:
    """The reverse: a message with its gradients inside."""
    if isinstance(message, Append) and isinstance(message.entry, Pushed):
        return replace(message, entry=replace(message.entry, payload=dict(tensors)))
    if isinstance(message, Snapshot):
        pending = {
            worker: replace(push, payload=_with_prefix(tensors, f"pending/{worker}/"))
            for worker, push in message.table.pending.items()
        }
        return replace(message, table=replace(message.table, pending=pending))
    return message


def _gradient(push: Pushed) -> Tensors:
    return cast(Tensors, push.payload)


def _with_prefix(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
