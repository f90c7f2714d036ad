"""What an optimizer keeps, found by letting it step on tiny tensors."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Muon, Optimizer, RMSprop

from reknit.inspection.optimizer import OptimizerFacts, can_shadow, probe, qualified_name

Factory = Callable[[list[nn.Parameter]], Optimizer]


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


class Normalised(Optimizer):
    """Divides the gradient by its norm, so each element depends on all others."""

    def __init__(self, params: Iterable[Any]) -> None:
        super().__init__(params, {})

    def step(self, _closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data -= parameter.grad / parameter.grad.norm()


class SignedMomentum(Optimizer):
    """An optimizer of a user's own that works element by element."""

    def __init__(self, params: Iterable[Any]) -> None:
        super().__init__(params, {})

    def step(self, _closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", parameter.grad.clone())
                momentum.mul_(0.9).add_(parameter.grad)
                parameter.data -= momentum.sign()


class Counting(SGD):
    """Counts its steps, and makes them smaller; where, subclasses say."""

    counter: Any

    def step(self, _closure: Any = None) -> None:
        self.counter.count = getattr(self.counter, "count", 0) + 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data -= group["lr"] * parameter.grad / self.counter.count


class CountingOnItself(Counting):
    @property
    def counter(self) -> Any:  # type: ignore[override]
        return self


class CountingOnItsClass(Counting):
    @property
    def counter(self) -> Any:  # type: ignore[override]
        return type(self)


class CountingInItsGroups(SGD):
    def step(self, _closure: Any = None) -> None:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for parameter in group["params"]:
                parameter.data -= group["lr"] * parameter.grad / group["count"]


class WithHandle(SGD):
    """Like DeepSpeed's CPU optimizers, whose numbers lie in a library."""

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, lr=lr)
        self.library = sys

    def __del__(self) -> None:
        self.library.getrefcount(self)


def noisy(params: list[nn.Parameter]) -> Optimizer:
    """Changes what torch's optimizer is given."""
    optimizer = SGD(params, lr=0.1)
    optimizer.register_step_pre_hook(
        lambda *_: [param.grad.mul_(2) for param in params if param.grad is not None] and None
    )
    return optimizer


@pytest.mark.parametrize(
    ("factory", "shadowable"),
    [
        (lambda params: AdamW(params), True),
        (SignedMomentum, True),
        (lambda params: CountingOnItself(params, lr=0.1), True),
        (lambda params: CountingInItsGroups(params, lr=0.1), True),
        (lambda params: CountingOnItsClass(params, lr=0.1), False),
        (lambda params: WithHandle(params, lr=0.1), False),
        (noisy, False),
    ],
)
def test_tells_whether_a_copy_can_follow(factory: Factory, shadowable: bool) -> None:
    assert can_shadow(factory, [matrix(64, 32), matrix(5)]) is shadowable


@pytest.mark.parametrize(
    "name",
    [
        "ASGD",
        "Adadelta",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
    ],
)
def test_copies_can_follow_all_of_torch_s_own(name: str) -> None:
    """A subclass is tried out, while torch's own are known."""
    own: type[Optimizer] = getattr(torch.optim, name)
    tried = type("Tried", (own,), {})
    assert can_shadow(lambda params: tried(params, lr=0.01), [matrix(64, 32), matrix(5)])


@pytest.mark.parametrize(
    ("factory", "tensors", "elementwise"),
    [
        (lambda params: SGD(params, lr=0.1), 0, True),
        (lambda params: SGD(params, lr=0.1, momentum=0.9), 1, True),
        (lambda params: Adam(params), 2, True),
        (lambda params: Adam(params, amsgrad=True), 3, True),
        (lambda params: AdamW(params), 2, True),
        (lambda params: Adagrad(params), 1, True),
        (lambda params: RMSprop(params, centered=True), 2, True),
        (lambda params: Adafactor(params), 0, False),
        (lambda params: Muon(params), 1, False),
        (Normalised, 0, False),
        (SignedMomentum, 1, True),
    ],
)
def test_counts_tensors_and_tells_elementwise(
    factory: Factory, tensors: int, elementwise: bool
) -> None:
    assert probe(factory, [matrix(64, 32)]) == OptimizerFacts(
        tensors, elementwise, shadowable=elementwise
    )


def test_the_mean_weighs_parameters_by_their_elements() -> None:
    class MomentumForVectors(Optimizer):
        def __init__(self, params: Iterable[Any]) -> None:
            super().__init__(params, {})

        def step(self, _closure: Any = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                if parameter.ndim == 1:
                    self.state[parameter]["momentum"] = parameter.grad.clone()

    # One tensor for 100 of 1100 elements is less than one per parameter, rounded up.
    assert probe(MomentumForVectors, [matrix(10, 100), matrix(100)]).tensors == 1
    assert probe(MomentumForVectors, [matrix(10, 100)]).tensors == 0


def test_a_factory_sees_the_dimensions_of_the_parameters() -> None:
    seen: list[list[int]] = []

    def factory(params: list[nn.Parameter]) -> Optimizer:
        seen.append([param.ndim for param in params])
        groups = [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in params if p.ndim < 2]},
        ]
        return AdamW(groups)

    assert probe(factory, [matrix(1000, 1000), matrix(7), matrix(2, 3, 4)]).tensors == 2
    assert seen[0] == [2, 1, 3]


def test_the_parameters_themselves_are_left_alone() -> None:
    parameter = matrix(4, 4)
    probe(lambda params: SGD(params, lr=1.0), [parameter])
    assert parameter.grad is None
    assert not parameter.any()


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    probe(lambda params: Adam(params), [matrix(8)])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_names_carry_the_module() -> None:
    optimizer = AdamW([matrix(2)])
    assert qualified_name(optimizer) == "torch.optim.adamw.AdamW"
