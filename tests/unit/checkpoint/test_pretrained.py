import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reknit.checkpoint.pretrained import load_pretrained
from reknit.errors import CheckpointMismatchError, ConfigurationError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 2, bias=False)
        self.norm = nn.BatchNorm1d(2)
        self.last = nn.Linear(3, 2, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("cache", torch.zeros(1), persistent=False)


@pytest.fixture
def save(tmp_path):
    """Writes the tensors of a model with changes to a file; None takes a tensor away."""

    def write(**changes):
        torch.manual_seed(8)
        tensors = {name: t.clone() for name, t in Model().state_dict().items()}
        del tensors["last.weight"]
        tensors |= {name.replace("__", "."): value for name, value in changes.items()}
        path = tmp_path / "weights.safetensors"
        save_file({name: t for name, t in tensors.items() if t is not None}, path)
        return path

    return write


def test_tensors_are_copied_by_name(save):
    weight = torch.arange(6.0).reshape(2, 3)
    model = Model()
    load_pretrained(model, save(first__weight=weight, norm__running_mean=torch.tensor([4.0, 5.0])))
    assert torch.equal(model.first.weight, weight)
    assert model.last.weight is model.first.weight
    assert model.norm.running_mean.tolist() == [4.0, 5.0]
    assert model.first.weight.requires_grad


@pytest.mark.parametrize("present", ["first__weight", "last__weight"])
def test_of_tied_weights_one_name_is_enough(save, present):
    weight = torch.arange(6.0).reshape(2, 3)
    model = Model()
    load_pretrained(model, save(**{"first__weight": None, present: weight}))
    assert torch.equal(model.first.weight, weight)


def test_number_formats_are_converted(save):
    model = Model()
    load_pretrained(model, save(first__weight=torch.ones(2, 3, dtype=torch.bfloat16)))
    assert model.first.weight.dtype == torch.float32
    assert model.first.weight.sum() == 6


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"first__weight": None}, "the file has no first.weight, which the model needs"),
        ({"norm__bias": None}, "the file has no norm.bias, which the model needs"),
        ({"head__bias": torch.ones(1)}, "the file holds head.bias, which the model does not have"),
        ({"cache": torch.ones(1)}, "the file holds cache, which the model does not have"),
        (
            {"norm__weight": torch.ones(3)},
            "norm.weight has shape (3,) in the file and (2,) in the model",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_changes_nothing(save, changes, sentence):
    model = Model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = save(**changes)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_pretrained(model, path)
    assert str(caught.value) == f"the weights in {path} do not fit the model: {sentence}"
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no file of pre-trained weights at .*none"):
        load_pretrained(Model(), tmp_path / "none")


def test_another_kind_of_file_is_one_sentence(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"\x80\x02}q\x00." * 40)
    with pytest.raises(ConfigurationError, match=r"weights in .*weights\.bin cannot be read"):
        load_pretrained(Model(), tmp_path / "weights.bin")
