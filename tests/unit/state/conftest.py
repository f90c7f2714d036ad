from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from reknit.protocol.base import Json
from reknit.state.description import Interval, LocalState, TensorSpec


@dataclass
class Source:
    """A whole state in memory."""

    specs: dict[str, TensorSpec]
    tensors: dict[str, torch.Tensor]
    scalars: dict[str, Json] = field(default_factory=dict)

    def __str__(self) -> str:
        return "in memory"

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        return self.tensors[name].view(-1)[interval.start : interval.stop].clone()


@pytest.fixture
def gather() -> Callable[[list[LocalState]], Source]:
    """The whole state from all ranks' shares; each element must be written once."""

    def gather(states: list[LocalState]) -> Source:
        specs = dict(states[0].specs)
        tensors = {
            name: torch.zeros(spec.num_elements, dtype=spec.dtype) for name, spec in specs.items()
        }
        counts = dict.fromkeys(specs, 0)
        for state in states:
            assert state.specs == specs
            for piece in state.written:
                tensors[piece.name][piece.interval.start : piece.interval.stop] = piece.data
                counts[piece.name] += len(piece.interval)
        assert counts == {name: spec.num_elements for name, spec in specs.items()}
        return Source(specs, tensors, dict(states[0].scalars))

    return gather
