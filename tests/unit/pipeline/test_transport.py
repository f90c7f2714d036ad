"""Messages between stages, by a group that hands them straight on."""

from collections import defaultdict
from typing import Any

import pytest
import torch

from reknit.pipeline.transport import (
    Route,
    Transport,
    generator_state,
    parts_of,
    set_generator_state,
)


class Sent:
    def is_completed(self) -> bool:
        return False

    def wait(self) -> None:
        return


class Loop:
    """What is sent is what is received next with the same tag."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.on_the_way: dict[int, list[torch.Tensor]] = defaultdict(list)

    def send(self, tensor: torch.Tensor, _rank: int, tag: int) -> Sent:
        assert tensor.is_contiguous()
        self.on_the_way[tag].append(tensor)
        return Sent()

    def receive(self, tensor: torch.Tensor, _rank: int, tag: int) -> None:
        sent = self.on_the_way[tag].pop(0)
        assert (sent.shape, sent.dtype) == (tensor.shape, tensor.dtype)
        tensor.detach().copy_(sent)


@pytest.fixture
def transport() -> Transport:
    return Transport(Loop(), lambda _: None)  # type: ignore[arg-type]


OUTPUTS: list[Any] = [
    torch.randn(3, 4),
    torch.randn(3, 4, requires_grad=True),
    torch.randn(4, 3).t(),
    torch.tensor(2.5),
    torch.tensor([True, False]),
    torch.randn(2, 2).bfloat16(),
    (torch.randn(2, requires_grad=True), torch.arange(3)),
    (torch.randn(2),),
    (),
]


@pytest.mark.parametrize("output", OUTPUTS)
def test_activations_arrive_as_they_were(transport, output) -> None:
    route = Route(1, 5)
    transport.send_activations(output, route)
    found, _ = transport.receive_activations(route)
    assert isinstance(found, tuple) is isinstance(output, tuple)
    for one, other in zip(parts_of(found), parts_of(output), strict=True):
        assert one.equal(other)
        assert one.dtype == other.dtype
        assert one.requires_grad == other.requires_grad
        assert one.is_leaf


def test_generators_go_on_where_they_stood(transport) -> None:
    torch.manual_seed(3)
    torch.rand(7)
    transport.send_activations(torch.zeros(1), Route(0, 1))
    expected = torch.rand(5)
    torch.manual_seed(4)
    _, state = transport.receive_activations(Route(0, 1))
    set_generator_state(state, torch.device("cpu"))
    assert torch.rand(5).equal(expected)
    assert not generator_state(torch.device("cpu")).equal(state)


def test_gradients_of_what_was_not_used_are_zero(transport) -> None:
    used, unused, integers = torch.ones(2, requires_grad=True), torch.ones(3), torch.arange(2)
    unused.requires_grad_()
    (used * 5).sum().backward()
    transport.send_gradients([used, integers, unused], Route(0, 1))
    found = transport.receive_gradients([used, unused], Route(0, 1))
    assert [gradient.tolist() for gradient in found] == [[5.0, 5.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "output", [None, "text", {"a": torch.ones(1)}, (torch.ones(1), None), [torch.ones(1)] * 9]
)
def test_what_cannot_be_handed_on_is_refused(output) -> None:
    with pytest.raises(TypeError, match="must be a tensor or a tuple of at most 8 tensors"):
        parts_of(output)
