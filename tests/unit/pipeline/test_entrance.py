"""How loss functions meet a model that is cut into stages."""

import pytest
import torch
from torch import nn

from reknit.errors import ConfigurationError
from reknit.pipeline.entrance import Called, CutModel


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 7
        self.layer = nn.Linear(1, 1)


def test_the_first_stage_learns_what_the_model_is_called_with() -> None:
    model = CutModel(Whole())
    model.begin(None)
    with pytest.raises(Called) as called:
        model(torch.ones(2), mask=None)
    assert called.value.arguments[0].tolist() == [1.0, 1.0]
    assert called.value.options == {"mask": None}
    # A loss that catches exceptions does not stop it.
    assert not issubclass(Called, Exception)


def test_the_last_stage_answers_once() -> None:
    model = CutModel(Whole())
    model.begin(lambda: 5)
    assert not model.was_called
    assert model(torch.ones(1)) == 5
    assert model.was_called
    with pytest.raises(ConfigurationError, match="the loss calls the model more than once"):
        model(torch.ones(1))


def test_settings_of_the_model_can_be_read_and_its_layers_not() -> None:
    whole = Whole()
    model = CutModel(whole)
    whole.eval()
    model.begin(None)
    assert model.width == 7
    assert not model.training
    assert list(model.parameters()) == []
    with pytest.raises(ConfigurationError, match="the loss uses layer of the model"):
        model.layer  # noqa: B018 - asking for it is what is refused
    with pytest.raises(AttributeError):
        model.nothing  # noqa: B018
