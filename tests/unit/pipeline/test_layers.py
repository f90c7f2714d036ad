"""What of a model belongs to which stage."""

import pytest
import torch
from torch import nn

from reknit.errors import ConfigurationError
from reknit.mesh import Mesh
from reknit.pipeline.layers import Layers, stages_of_buffers, stages_of_parameters
from reknit.state.intervals import Interval, Placed
from reknit.strategies.stage_placement import StageMaster, ranks_of


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.last = nn.Linear(2, 2, bias=False)
        self.last.weight = self.first.weight

    def pipeline_layers(self) -> list[nn.Module]:
        return [self.first, self.norm, self.last]


def test_a_sequence_is_its_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 9))
    layers = Layers.of(model)
    assert layers.names == ("0", "1", "2")
    assert layers.cut(2, ()) == (range(2), range(2, 3))
    assert layers.cut(2, ("1",)) == (range(1), range(1, 3))


def test_shared_weights_belong_to_all_stages_that_use_them() -> None:
    model = Tied()
    layers = Layers.of(model)
    parts = layers.cut(3, ())
    assert stages_of_parameters(model, layers, parts) == {
        "first.weight": (0, 2),
        "first.bias": (0,),
        "norm.weight": (1,),
        "norm.bias": (1,),
    }
    assert set(stages_of_buffers(model, layers, parts).values()) == {1}


class Outside(Tied):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Foreign(Tied):
    def pipeline_layers(self) -> list[nn.Module]:
        return [self.first, nn.Tanh(), self.norm, self.last]


class Twice(Tied):
    def pipeline_layers(self) -> list[nn.Module]:
        return [self.first, self.norm, self.last, self.norm]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Linear(2, 2), "the model Linear cannot be cut into stages; make it an nn.Sequential"),
        (Outside(), "scale belongs to no layer of the pipeline"),
        (Foreign(), "returns a Tanh that is none of the model's modules"),
        (Twice(), "several layers share the buffer norm.running_mean"),
    ],
)
def test_what_cannot_be_cut_is_refused(model, sentence) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Layers.of(model)


def test_a_rank_of_several_stages_holds_a_parameter_once() -> None:
    assert ranks_of({"a": (0, 2), "b": (1, 2), "c": (3,)}, 2) == {"a": (0,), "b": (1, 0), "c": (1,)}


def test_masters_of_all_stages_have_the_same_size() -> None:
    master = StageMaster(
        ("a", "b", "c"), ((2, 3), (5,), ()), ((0, 1), (1,), (0,)), Mesh(num_data=2, num_stages=2)
    )
    assert master.size == 11
    first = [Placed(0, Interval(0, 6), 0), Placed(2, Interval(0, 1), 6)]
    second = [Placed(0, Interval(0, 6), 0), Placed(1, Interval(0, 5), 6)]
    found = [list(master.placed(11, 4, rank)) for rank in range(4)]
    assert found == [first, first, second, second]
