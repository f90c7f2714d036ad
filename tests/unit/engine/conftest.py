from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from reknit.mesh import Coordinates, Mesh
from reknit.trainer.gate import Vote


@dataclass
class StubStore:
    values: dict[str, bytes] = field(default_factory=dict)

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]


@dataclass
class StubGroup:
    """One rank of a world in which the others' votes are written down beforehand."""

    rank: int = 0
    world_size: int = 1
    others: list[Vote] = field(default_factory=list)
    """What the other ranks put into the next all-reduces, summed."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    store: StubStore = field(default_factory=StubStore)

    @property
    def mesh(self) -> Mesh:
        return Mesh(num_data=self.world_size)

    @property
    def place(self) -> Coordinates:
        return Coordinates(data=self.rank, stage=0, tensor=0)

    @property
    def speaks(self) -> bool:
        return True

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.others:
            tensor += self.others.pop(0).to_tensor(self.device)
        return tensor

    def broadcast(self, tensors: Any) -> None:
        list(tensors)


@pytest.fixture
def stub_group() -> type[StubGroup]:
    return StubGroup
