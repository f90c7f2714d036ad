"""Large states pass through without a second copy of them in memory."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch

from reknit.checkpoint.consolidate import consolidate
from reknit.checkpoint.reader import newest, open_checkpoint
from reknit.checkpoint.writer import Checkpointer
from reknit.protocol.base import Generation
from reknit.state.description import Interval, LocalState, Piece, TensorSpec

MIB = 1 << 20
NUM_ELEMENTS = 48 * MIB  # 192 MiB


def own_bytes() -> int:
    """Memory of this process that is not page cache."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


@pytest.fixture
def checkpoint(tmp_path):
    data = torch.arange(NUM_ELEMENTS, dtype=torch.float32)
    pieces = [Piece("param/w", Interval(0, NUM_ELEMENTS), data)]
    specs = {"param/w": TensorSpec((NUM_ELEMENTS,), torch.float32)}
    writer = Checkpointer(
        tmp_path, rank=0, world_size=1, generation=Generation(incarnation=1, counter=1), keep=1
    )
    assert writer.begin(1, LocalState(specs, pieces, pieces))
    assert writer.wait(timedelta(seconds=60))
    writer.commit(1)
    writer.close(timedelta(seconds=60))
    return newest(tmp_path)


def test_reading_and_consolidating_take_little_memory(tmp_path, checkpoint):
    before = own_bytes()
    with open_checkpoint(checkpoint) as source:
        part = source.read("param/w", Interval(NUM_ELEMENTS - MIB, NUM_ELEMENTS))
        assert part[-1] == NUM_ELEMENTS - 1
        assert own_bytes() - before < 32 * MIB
        consolidate(source, tmp_path / "model.safetensors")
        assert own_bytes() - before < 64 * MIB
    assert (tmp_path / "model.safetensors").stat().st_size > 4 * NUM_ELEMENTS
