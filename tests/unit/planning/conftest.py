"""A small job to plan."""

import pytest

from reknit.protocol.inspection import Inspection, ParameterInfo
from reknit.protocol.settings import BatchSettings, CheckpointSettings, JobSettings


@pytest.fixture
def inspection() -> Inspection:
    """A model of 1000 trainable elements, 100 frozen ones and a buffer of 10 integers."""
    return Inspection(
        parameters=(
            ParameterInfo(name="a", shape=(20, 40), dtype="float32", group=0),
            ParameterInfo(name="b", shape=(200,), dtype="float32", group=1),
            ParameterInfo(name="frozen", shape=(100,), dtype="float32"),
        ),
        buffers=(ParameterInfo(name="counts", shape=(10,), dtype="int64"),),
        optimizer="torch.optim.adamw.AdamW",
        optimizer_tensors=2,
        num_samples=640,
        total_steps=100,
    )


@pytest.fixture
def settings() -> JobSettings:
    """Four ranks in two pods."""
    return JobSettings(
        name="small",
        function="small:train",
        batch=BatchSettings(global_batch=64, micro=8),
        num_workers=2,
        processes_per_worker=2,
        checkpoint=CheckpointSettings(path="checkpoints"),
    )
