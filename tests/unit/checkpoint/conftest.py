from datetime import timedelta
from pathlib import Path

import pytest
import torch

from reknit.checkpoint.reader import newest, open_checkpoint
from reknit.checkpoint.writer import Checkpointer
from reknit.protocol.base import Generation
from reknit.state.description import (
    Interval,
    LocalState,
    Piece,
    StateSource,
    TensorSpec,
    even_intervals,
)

SPECS = {
    "param/embedding.weight": TensorSpec((11, 5), torch.float32),
    "param/bias": TensorSpec((3,), torch.float32),
    "optimizer/exp_avg/embedding.weight": TensorSpec((11, 5), torch.bfloat16),
    "buffer/counter": TensorSpec((), torch.int64),
    "buffer/mask": TensorSpec((2, 2), torch.bool),
    "buffer/none": TensorSpec((0, 4), torch.float32),
}
PATIENCE = timedelta(seconds=20)


class World:
    """The state of a job at a version, and all of its ranks' checkpointers."""

    def __init__(self, folder: Path, size: int = 2, counter: int = 1, keep: int = 10) -> None:
        self.folder = folder
        self.size = size
        self.generation = Generation(incarnation=1, counter=counter)
        self.ranks = [
            Checkpointer(folder, rank=rank, world_size=size, generation=self.generation, keep=keep)
            for rank in range(size)
        ]

    @staticmethod
    def values(name: str, version: int) -> torch.Tensor:
        """The whole tensor, flat, as of `version`."""
        spec = SPECS[name]
        numbers = torch.arange(spec.num_elements) + 1000 * version
        return (numbers % 2 if spec.dtype == torch.bool else numbers).to(spec.dtype)

    def state(self, rank: int, version: int) -> LocalState:
        """Each tensor is divided evenly."""
        pieces = []
        for name, spec in SPECS.items():
            interval = list(even_intervals(spec.num_elements, self.size))[rank]
            data = self.values(name, version)[interval.start : interval.stop].clone()
            pieces.append(Piece(name, interval, data))
        return LocalState(SPECS, pieces, pieces, {"lr": 0.1 * version, "worst": float("inf")})

    def begin(self, version: int) -> None:
        for rank, checkpointer in enumerate(self.ranks):
            assert checkpointer.begin(version, self.state(rank, version))
        self.wait()

    def commit(self, version: int) -> None:
        self.ranks[0].commit(version)
        self.wait()

    def save(self, version: int) -> Path:
        """A complete checkpoint."""
        self.begin(version)
        assert all(rank.progress().durable for rank in self.ranks), self.errors()
        self.commit(version)
        assert self.ranks[0].progress().committed, self.errors()
        return self.ranks[0].location(version)

    def wait(self) -> None:
        for rank in self.ranks:
            assert rank.wait(PATIENCE)

    def errors(self) -> list[str | None]:
        return [rank.progress() and rank.progress().error for rank in self.ranks]

    def close(self) -> None:
        for rank in self.ranks:
            rank.close()


def assert_holds(source: StateSource, version: int) -> None:
    """All of `source` is the state of `version`."""
    assert dict(source.specs) == SPECS
    assert dict(source.scalars) == {"lr": 0.1 * version, "worst": float("inf")}
    for name, spec in SPECS.items():
        read = source.read(name, Interval(0, spec.num_elements))
        assert torch.equal(read, World.values(name, version)), name
        assert read.dtype == spec.dtype


@pytest.fixture
def world(tmp_path):
    """world(size=2, counter=1, keep=10) -> World in the folder `tmp_path / "checkpoints"`."""
    worlds = []

    def make(**options) -> World:
        worlds.append(World(tmp_path / "checkpoints", **options))
        return worlds[-1]

    yield make
    for made in worlds:
        made.close()


@pytest.fixture
def holds():
    return assert_holds


@pytest.fixture
def newest_version(tmp_path):
    """The version that a job would resume from, its contents checked; None without one."""

    def read() -> int | None:
        info = newest(tmp_path / "checkpoints")
        if info is None:
            return None
        with open_checkpoint(info) as source:
            assert_holds(source, info.version)
        return info.version

    return read
