"""A model, its ranges, and what travels between them."""

import pytest
import torch
from torch import nn

from reknit.parameter_server.binding import Binding, specs_of
from reknit.parameter_server.formats import Compression
from reknit.parameter_server.rows import combine, overlay
from reknit.parameter_server.tensors import DENSE, RangeTensors


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(11, 3, sparse=True)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.first(self.table(ids).sum(1)).relu()
        return self.second(hidden).square().mean()


IDS = torch.tensor([[1, 1, 7], [10, 7, 2]])


def test_embeddings_with_sparse_gradients_are_tables_and_ties_come_once():
    found = [(spec.name, spec.is_table) for spec in specs_of(Model())]
    assert found == [
        ("table.weight", True),
        ("first.weight", False),
        ("first.bias", False),
        ("second.bias", False),
    ]


@pytest.mark.parametrize("num_ranges", [1, 2, 3])
def test_steps_on_ranges_are_those_of_plain_torch(num_ranges):
    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.5)

    plain, model = Model(), Model()
    optimizer = sgd([p for p in plain.parameters() if p.requires_grad])
    binding = Binding(model, num_ranges)
    parts = []
    named = dict(model.named_parameters())
    for number in range(num_ranges):
        part = RangeTensors(binding.plan, number, sgd, keeps_previous=False)
        part.read(lambda name, span: named[name].detach().view(-1)[span.start : span.stop])
        parts.append(part)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    wishes = binding.wishes({"table.weight": IDS})
    for _ in range(3):
        weights = [p.weights(w, previous=False) for p, w in zip(parts, wishes, strict=True)]
        binding.install(wishes, weights)
        for each in (plain, model):
            each.zero_grad()
            each(IDS).backward()
        optimizer.step()
        for part, content in zip(parts, binding.gradients(), strict=True):
            assert part.misfit(content, is_gradient=True) is None
            part.apply([content])
    weights = [p.weights(w, previous=False) for p, w in zip(parts, wishes, strict=True)]
    binding.install(wishes, weights)
    touched = torch.unique(IDS)
    for name, parameter in plain.named_parameters():
        other = dict(model.named_parameters())[name]
        rows = touched if name == "table.weight" else slice(None)
        torch.testing.assert_close(other[rows], parameter[rows])


def test_each_row_travels_once():
    model = Model()
    model(IDS).backward()
    (content,) = Binding(model, 1).gradients()
    assert content["rows/0"].tolist() == [1, 2, 7, 10]
    dense = model.table.weight.grad.to_dense()
    torch.testing.assert_close(content["values/0"], dense[[1, 2, 7, 10]])


def test_a_parameter_without_a_gradient_counts_as_zero():
    model = Model()
    (content,) = Binding(model, 1, Compression.BF16).gradients()
    assert content[DENSE].dtype == torch.bfloat16
    assert content[DENSE].count_nonzero() == 0
    assert content["rows/0"].tolist() == []


def test_a_dense_gradient_of_a_table_is_cut_to_its_rows():
    model = Model()
    model.table.weight.grad = torch.zeros(11, 3)
    model.table.weight.grad[4] = 2.0
    (content,) = Binding(model, 1).gradients()
    assert content["rows/0"].tolist() == [4]


def test_rows_are_added_in_the_order_in_which_they_come():
    """1e8 + 1 - 1e8 is 0 in FP32, in another order 1."""
    rows = torch.tensor([5])
    values = [torch.full((1, 1), value) for value in (1e8, 1.0, -1e8)]
    assert combine([(rows, value) for value in values])[1].item() == 0.0
    assert combine([(rows, values[i]) for i in (0, 2, 1)])[1].item() == 1.0


@pytest.mark.parametrize("indices", [[], [0, 3], [2], [9]])
def test_overlaid_rows_are_those_of_the_same_index(indices):
    rows = torch.tensor([3, 0, 2, 3])
    values = torch.zeros(4, 1)
    overlay(values, rows, (torch.tensor(indices, dtype=torch.int64), torch.ones(len(indices), 1)))
    assert values.view(-1).tolist() == [float(int(row) in indices) for row in rows]
