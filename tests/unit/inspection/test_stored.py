"""A checkpoint is held against the model before anything is started."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from reknit.checkpoint.writer import Checkpointer
from reknit.errors import CheckpointMismatchError, ConfigurationError
from reknit.inspection.main import inspect
from reknit.inspection.stored import check_stored
from reknit.protocol.base import Generation
from reknit.protocol.inspection import Inspection, InspectionFailure, ParameterInfo
from reknit.protocol.settings import BatchSettings, CheckpointSettings, JobSettings
from reknit.state.description import Interval, LocalState, Piece, TensorSpec

PATIENCE = timedelta(seconds=20)
SHAPES = {"weight": (3, 5), "frozen": (4,)}


def save(folder: Path, version: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Path:
    """A checkpoint of one rank, with other state beside the parameters."""
    names = {f"param/{name}": shape for name, shape in shapes.items()}
    names |= {"optimizer/exp_avg/weight": (3, 5), "buffer/mask": (2,), "worker/0/exp_avg/a": (1,)}
    specs = {name: TensorSpec(shape, torch.float32) for name, shape in names.items()}
    pieces = [
        Piece(name, Interval(0, spec.num_elements), torch.zeros(spec.num_elements))
        for name, spec in specs.items()
    ]
    generation = Generation(incarnation=1, counter=1)
    rank = Checkpointer(folder, rank=0, world_size=1, generation=generation, keep=9)
    assert rank.begin(version, LocalState(specs, pieces, pieces))
    assert rank.wait(PATIENCE)
    rank.commit(version)
    assert rank.wait(PATIENCE)
    path = rank.location(version)
    rank.close()
    return path


def model(shapes: dict[str, tuple[int, ...]] = SHAPES) -> Inspection:
    parameters = tuple(
        ParameterInfo(
            name=name, shape=shape, dtype="float32", group=None if name == "frozen" else 0
        )
        for name, shape in shapes.items()
    )
    return Inspection(parameters=parameters, optimizer="torch.optim.sgd.SGD")


def check(folder: Path, found: Inspection) -> None:
    check_stored(CheckpointSettings(path=str(folder)), found)


def test_without_a_checkpoint_there_is_nothing_to_say(tmp_path: Path) -> None:
    check_stored(None, model())
    check(tmp_path / "nowhere", model())
    check(tmp_path, model())


def test_a_checkpoint_of_this_model_fits(tmp_path: Path) -> None:
    save(tmp_path, 3)
    check(tmp_path, model())


@pytest.mark.parametrize(
    ("shapes", "difference"),
    [
        (SHAPES | {"weight": (3, 6)}, r"param/weight has shape \(3, 5\) there and \(3, 6\) here"),
        (SHAPES | {"bias": (3,)}, "it has no param/bias, which the model needs"),
        ({"weight": (3, 5)}, "it holds param/frozen, which the model does not have"),
    ],
)
def test_the_first_difference_is_told_with_the_remedy(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], difference: str
) -> None:
    path = save(tmp_path, 3)
    with pytest.raises(CheckpointMismatchError, match=f"{difference}; run the config") as caught:
        check(tmp_path, model(shapes))
    assert str(caught.value).startswith(f"the checkpoint {path} does not fit: ")
    assert "without --resume" in str(caught.value)


def test_the_newest_complete_checkpoint_counts(tmp_path: Path) -> None:
    save(tmp_path, 3, {"other": (1,)})
    newest = save(tmp_path, 4)
    check(tmp_path, model())
    (newest / "COMMITTED").unlink()
    with pytest.raises(CheckpointMismatchError, match="step-00000003"):
        check(tmp_path, model())


def test_a_damaged_checkpoint_is_passed_over_as_by_the_ranks(tmp_path: Path) -> None:
    save(tmp_path, 3)
    newest = save(tmp_path, 4, {"other": (1,)})
    shard = newest / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    check(tmp_path, model())


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("reknit.checkpoint.reader.find", refuse)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        check(tmp_path, model())


def test_the_dry_run_compares(tmp_path: Path, user_module: Callable[[str], str]) -> None:
    name = user_module(
        """
        import torch
        from torch import nn

        def train(job):
            job.engine(
                model=lambda: nn.Linear(5, 3, bias=False),
                optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
                loss=lambda model, batch: model(batch).mean(),
            )
            for _ in job.batches([torch.zeros(5)] * 10, epochs=1):
                raise AssertionError("the dry run goes no further")
        """
    )
    settings = JobSettings(
        name="job",
        function=f"{name}:train",
        batch=BatchSettings(global_batch=4, micro=2),
        checkpoint=CheckpointSettings(path=str(tmp_path / "checkpoints")),
    )
    save(tmp_path / "checkpoints", 1, {"weight": (3, 5)})
    assert isinstance(inspect(settings), Inspection)
    save(tmp_path / "checkpoints", 2, {"weight": (3, 6)})
    found = inspect(settings)
    assert isinstance(found, InspectionFailure)
    (problem,) = found.problems
    assert "param/weight has shape (3, 6) there and (3, 5) here" in problem
    assert found.traceback is None
