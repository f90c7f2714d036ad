import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from reknit.checkpoint.consolidate import consolidate
from reknit.checkpoint.reader import newest, open_checkpoint
from reknit.state.description import TensorSpec


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


class ModelState:
    """A model's state as an engine describes it: tied weights once, under their first name."""

    def __init__(self, model):
        self.scalars = {}
        self.tensors = {f"param/{name}": value for name, value in model.named_parameters()}
        self.tensors |= {f"buffer/{name}": value for name, value in model.named_buffers()}
        self.tensors["optimizer/exp_avg/embedding.weight"] = torch.ones(7, 4)
        self.longest_read = 0

    @property
    def specs(self):
        return {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in self.tensors.items()}

    def read(self, name, interval):
        self.longest_read = max(self.longest_read, len(interval))
        return self.tensors[name].detach().flatten()[interval.start : interval.stop].clone()


@pytest.fixture
def model():
    torch.manual_seed(3)
    model = Tied()
    model.norm.running_mean.normal_()
    model.norm.num_batches_tracked += 5
    return model


def test_a_model_with_tied_weights_loads_strictly(tmp_path, model):
    path = tmp_path / "model.safetensors"
    consolidate(ModelState(model), path, aliases={"head.weight": "embedding.weight"})
    fresh = Tied()
    fresh.load_state_dict(load_file(path), strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_holds_the_models_own_names_and_no_optimizer_state(tmp_path, model):
    path = tmp_path / "model.safetensors"
    consolidate(ModelState(model), path)
    assert set(load_file(path)) == set(model.state_dict()) - {"head.weight"}


def test_a_sharded_checkpoint_becomes_one_file(tmp_path, world):
    job = world(size=3)
    job.save(2)
    with open_checkpoint(newest(tmp_path / "checkpoints")) as source:
        consolidate(source, tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert set(tensors) == {"embedding.weight", "bias", "counter", "mask", "none"}
    assert tensors["embedding.weight"].shape == (11, 5)
    assert torch.equal(
        tensors["embedding.weight"].flatten(), job.values("param/embedding.weight", 2)
    )
    assert tensors["counter"].item() == 2000


def test_large_tensors_are_copied_in_parts(tmp_path):
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(9 << 20, dtype=torch.float32))

    state = ModelState(Large())
    consolidate(state, tmp_path / "model.safetensors")
    assert state.longest_read == 1 << 20
    assert torch.equal(
        load_file(tmp_path / "model.safetensors")["weight"], state.tensors["param/weight"]
    )


def test_an_older_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, model, monkeypatch):
    path = tmp_path / "model.safetensors"
    consolidate(ModelState(Tied()), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            consolidate(ModelState(model), path)
    assert path.read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: full(None))
        with pytest.raises(OSError, match="No space left"):
            consolidate(ModelState(model), path)
    assert list(tmp_path.iterdir()) == [path]
    consolidate(ModelState(model), path)
    assert path.read_bytes() != before


def test_an_alias_of_nothing_is_refused(tmp_path, model):
    with pytest.raises(ValueError, match=r"no tensor of the state is called head\.bias"):
        consolidate(ModelState(model), tmp_path / "m", aliases={"x": "head.bias"})
