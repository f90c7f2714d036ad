"""Layers that several ranks divide compute what the whole layers do, forward and backward."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, gelu

from reknit.cuts import Column, Row, TensorPlan, Vocabulary
from reknit.errors import ConfigurationError
from reknit.strategies.tensor_cutting import CutModel, Division, cuts_of

HEAD = 4


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, _ = x.shape
        heads = (batch, time, -1, HEAD)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, time, -1))


class Net(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 16, padding_idx=7)
        self.norm = nn.LayerNorm(16)
        self.blocks = nn.ModuleList([Attention(16), Attention(16)])
        self.up = nn.Linear(16, 24, bias=False)
        self.down = nn.Linear(24, 16)
        self.head = nn.Linear(16, 12, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(self.norm(x))
        return self.head(x + self.down(gelu(self.up(x))))


PLAN: TensorPlan = {
    "embedding": Vocabulary(),
    "blocks.*.qkv": Column(blocks=3, unit=HEAD),
    "blocks.*.out": Row(),
    "up": Column(),
    "down": Row(),
    "head": Column(gather=True),
}


class SharedMemory:
    """An axis of threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.parts: list[torch.Tensor] = [torch.empty(0)] * size

    def at(self, place: int) -> "Place":
        return Place(self, place)


class Place:
    def __init__(self, memory: SharedMemory, place: int) -> None:
        self.memory, self.size, self.place = memory, memory.size, place

    def everyone(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.memory.parts[self.place] = tensor.clone()
        self.memory.barrier.wait(10)
        found = list(self.memory.parts)
        self.memory.barrier.wait(10)
        return found

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.everyone(tensor)).sum(dim=0)

    def join(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.everyone(tensor), dim=-1)


def together(size: int, work: Callable[[Place], object]) -> list[object]:
    memory = SharedMemory(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda place: work(memory.at(place)), range(size)))


def net(tied: bool = True) -> Net:
    torch.manual_seed(1)
    return Net(tied)


def compute(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    tokens = torch.arange(24).view(2, 12) * 5 % 12
    loss = cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_compute_what_the_whole_does(size, tied):
    whole = net(tied)
    loss, gradients = compute(whole)

    # Made here: all threads draw from one generator.
    models = [net(tied) for _ in range(size)]

    def work(place: Place) -> object:
        model = models[place.place]
        cut = CutModel(model, cuts_of(model, PLAN, size), place)
        return cut.divisions, *compute(model)

    for place, (divisions, part_loss, part_gradients) in enumerate(together(size, work)):
        assert part_loss == pytest.approx(float(loss), rel=1e-6)
        assert {"up.weight", "blocks.1.qkv.bias", "embedding.weight"} <= divisions.keys()
        assert {"down.bias", "norm.weight"}.isdisjoint(divisions)
        for name, gradient in gradients.items():
            expected = gradient
            if name in divisions:
                expected = divisions[name].part(gradient, size, place)
            torch.testing.assert_close(part_gradients[name], expected, rtol=1e-4, atol=1e-6)


def test_a_model_is_whole_again_afterwards():
    model, whole = net(), net()
    shapes = {name: p.shape for name, p in whole.named_parameters()}
    cut = CutModel(model, cuts_of(model, PLAN, 2), SharedMemory(2).at(1))
    assert model.up.out_features == 12
    assert model.up.weight.shape == (12, 16)
    cut.restore()
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    model.load_state_dict(whole.state_dict())
    assert model.up.out_features == 24
    assert torch.equal(compute(model)[0], compute(whole)[0])


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.data(),
)
def test_parts_hold_each_element_once(num_parts, blocks, shape, data):
    dimension = data.draw(st.integers(0, len(shape) - 1))
    shape[dimension] *= num_parts * blocks
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    division = Division(tuple(shape), dimension, blocks)
    parts = [division.part(whole, num_parts, part) for part in range(num_parts)]
    runs = [part.chunk(blocks, dimension) for part in parts]
    together = torch.cat([run for block in zip(*runs, strict=True) for run in block], dimension)
    assert torch.equal(together, whole)


@pytest.mark.parametrize(
    ("plan", "degree", "sentence"),
    [
        (None, 2, "parallelism.tensor is 2, but nothing says which layers are cut"),
        ({"block.*.qkv": Column()}, 2, "the model has no module block.*.qkv"),
        ({"blocks.*": Column()}, 2, "Column cuts a plain Linear, but blocks.0 is a Attention"),
        ({"norm": Row()}, 2, "Row cuts a plain Linear, but norm is a LayerNorm"),
        ({"up": Vocabulary()}, 2, "Vocabulary cuts a plain Embedding, but up is a Linear"),
        ({"up": Column(), "u?": Column()}, 2, "up and u? both mean the module up"),
        ({"up": Column()}, 5, "the 24 outputs of up cannot be divided among 5 ranks; change"),
        ({"down": Row()}, 5, "the 24 inputs of down cannot be divided among 5 ranks"),
        (
            {"blocks.*.qkv": Column(blocks=3, unit=8)},
            4,
            "the 48 outputs of blocks.0.qkv cannot be divided among 4 ranks in 3 blocks in units "
            "of 8",
        ),
        ({"embedding": Vocabulary()}, 2, "embedding and head share a parameter, but are not cut"),
        (
            {"embedding": Vocabulary(), "head": Row()},
            2,
            "embedding and head share a parameter, but are not cut alike",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan, degree, sentence):
    with pytest.raises(ConfigurationError) as error:
        cuts_of(net(), plan, degree)
    assert sentence in str(error.value)


@pytest.mark.parametrize("arguments", [{"blocks": 0}, {"unit": 0}, {"gather": True, "blocks": 3}])
def test_a_column_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError, match="Column"):
        Column(**arguments)
