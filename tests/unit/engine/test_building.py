import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reknit.errors import ConfigurationError
from reknit.layout import Precision
from reknit.strategies.base import (
    LossModule,
    Recipe,
    averaging_factors,
    build,
    gradient_norm,
    persistent_buffers,
    scale_gradients,
    tied_names,
)

CPU = torch.device("cpu")


def recipe(model=None, optimizer=None, **more) -> Recipe:
    return Recipe(
        model=model or (lambda: nn.Linear(2, 2)),
        optimizer=optimizer or (lambda params: torch.optim.SGD(params, lr=0.1)),
        loss=lambda model, data: model(data).mean(),
        **more,
    )


def test_weights_follow_from_the_seed():
    torch.manual_seed(1)
    first = build(recipe(), seed=5, device=CPU).model.weight
    torch.manual_seed(2)
    assert build(recipe(), seed=5, device=CPU).model.weight.equal(first)
    assert not build(recipe(), seed=6, device=CPU).model.weight.equal(first)


def test_the_optimizer_gets_trainable_parameters_once():
    def model() -> nn.Module:
        made = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        made[1].weight = made[0].weight
        made[2].requires_grad_(False)
        return made

    built = build(recipe(model), seed=0, device=CPU)
    assert [id(p) for p in built.parameters] == [
        id(built.model[0].weight),
        id(built.model[0].bias),
        id(built.model[1].bias),
    ]
    assert tied_names(built.model) == {"1.weight": "0.weight"}


def test_tensors_become_contiguous_and_keep_their_values():
    def model() -> nn.Module:
        made = nn.Linear(2, 3)
        made.weight.data = torch.arange(6.0).reshape(2, 3).t()
        return made

    weight = build(recipe(model), seed=0, device=CPU).model.weight
    assert weight.is_contiguous()
    assert weight.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_pretrained_weights_are_loaded(tmp_path):
    weights = {"weight": torch.ones(2, 2), "bias": torch.full((2,), 3.0)}
    save_file(weights, tmp_path / "weights.safetensors")
    made = recipe(pretrained=tmp_path / "weights.safetensors")
    assert build(made, seed=0, device=CPU).model.bias.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (recipe(lambda: nn.Linear(2, 2).requires_grad_(False)), "no trainable parameters"),
        (recipe(optimizer=lambda params: torch.optim.LBFGS(params)), "LBFGS is not supported"),
        (
            recipe(optimizer=lambda _: torch.optim.SGD([nn.Parameter(torch.ones(1))])),
            "not the model's trainable ones",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(made, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        build(made, seed=0, device=CPU)


def test_only_buffers_that_are_saved_belong_to_the_state():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[1].register_buffer("cache", torch.ones(3), persistent=False)
    assert set(persistent_buffers(model)) == {
        "0.running_mean",
        "0.running_var",
        "0.num_batches_tracked",
    }


@pytest.mark.parametrize("value", [3.0, torch.ones(2)])
def test_a_loss_must_be_one_number(value):
    module = LossModule(nn.Linear(2, 2), lambda *_: value, CPU, Precision.FP32)
    with pytest.raises(TypeError, match="a tensor with one element"):
        module(torch.ones(1, 2))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (Precision.FP32, torch.float32),
        (Precision.BF16, torch.bfloat16),
        (Precision.FP16, torch.float16),
    ],
)
def test_forward_runs_in_the_precision_s_format(precision, dtype):
    seen = []

    def loss(model, data):
        out = model(data)
        seen.append(out.dtype)
        return out.float().mean().reshape(1)

    module = LossModule(nn.Linear(2, 2), loss, CPU, precision)
    assert module(torch.ones(1, 2)).shape == ()
    assert module(torch.ones(1, 2), lambda *_: torch.tensor(4.0)) == 4.0
    assert seen == [dtype]


def test_norms_and_factors():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert gradient_norm(gradients, CPU) == 5.0
    assert gradient_norm([], CPU) == 0.0
    assert not gradient_norm([torch.tensor([torch.nan]), torch.ones(1)], CPU).isfinite()
    scale_gradients(gradients, 0.5)
    assert gradients[1].item() == 2.0
    for precision in Precision:
        factors = averaging_factors(4, precision)
        assert factors.before * factors.after == 4
    assert averaging_factors(4, Precision.FP16).before == 1
