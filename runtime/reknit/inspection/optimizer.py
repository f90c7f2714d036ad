"""What an optimizer keeps per parameter, and whether it works element by element."""

from dataclasses import dataclass
from math import ceil
from typing import Final

import torch
from torch import nn

from reknit.job import OptimizerFactory
from reknit.state.optimizer import step
from reknit.state.shadow import Shadow, contents
from reknit.state.shard import Shard

PROBE_SIDE: Final = 3
"""Elements of a probe along each dimension: enough to tell a row from a scalar."""

_SHADOWED_STEPS: Final = 4
"""Before and after a shadow is made."""

# Optimizers whose update of an element depends on that element's gradient and state alone.
_ELEMENTWISE: Final = frozenset(
    {
        "torch.optim.adadelta.Adadelta",
        "torch.optim.adagrad.Adagrad",
        "torch.optim.adam.Adam",
        "torch.optim.adamax.Adamax",
        "torch.optim.adamw.AdamW",
        "torch.optim.asgd.ASGD",
        "torch.optim.nadam.NAdam",
        "torch.optim.radam.RAdam",
        "torch.optim.rmsprop.RMSprop",
        "torch.optim.rprop.Rprop",
        "torch.optim.sgd.SGD",
        "deepspeed.ops.adagrad.cpu_adagrad.DeepSpeedCPUAdagrad",
        "deepspeed.ops.adam.cpu_adam.DeepSpeedCPUAdam",
        "deepspeed.ops.adam.fused_adam.FusedAdam",
        "deepspeed.ops.lion.cpu_lion.DeepSpeedCPULion",
        "deepspeed.ops.lion.fused_lion.FusedLion",
    }
)
_NOT_ELEMENTWISE: Final = frozenset(
    {
        "torch.optim._adafactor.Adafactor",
        "torch.optim._muon.Muon",
        "torch.optim.lbfgs.LBFGS",
        "deepspeed.ops.lamb.fused_lamb.FusedLamb",
        "deepspeed.runtime.zero.muon.original_muon.MuonWithAuxAdam",
    }
)


@dataclass(frozen=True, slots=True)
class OptimizerFacts:
    """What planning needs to know of an optimizer."""

    tensors: int
    """State tensors of a parameter's size per parameter; the mean over elements, rounded up."""
    elementwise: bool
    shadowable: bool
    """Whether a copy that takes the same steps stays the same bit for bit; only asked of an
    elementwise one."""


def qualified_name(optimizer: torch.optim.Optimizer) -> str:
    """Module and class."""
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def probe(factory: OptimizerFactory, parameters: list[nn.Parameter]) -> OptimizerFacts:
    """Lets the user's optimizer take two steps on tiny tensors and looks at what it keeps.

    The probes have the dimensions of `parameters`, so that a factory which sorts parameters by
    them treats the probes likewise.

    Raises:
        Exception: whatever the optimizer raises when it takes a step.
    """
    plain = _probes(parameters)
    optimizer = factory(list(plain))
    _step_twice(optimizer, plain)
    counts = [
        sum(
            1
            for key, value in optimizer.state.get(tensor, {}).items()
            if key != "step" and isinstance(value, torch.Tensor) and value.shape == tensor.shape
        )
        for tensor in plain
    ]
    elements = [parameter.numel() for parameter in parameters]
    kept = sum(count * number for count, number in zip(counts, elements, strict=True))
    elementwise = _is_elementwise(factory, optimizer, plain, parameters)
    return OptimizerFacts(
        tensors=ceil(kept / max(1, sum(elements))),
        elementwise=elementwise,
        shadowable=elementwise and can_shadow(factory, parameters),
    )


def can_shadow(factory: OptimizerFactory, parameters: list[nn.Parameter]) -> bool:
    """Whether a copy that takes the same steps stays the same, bit for bit.

    Torch's own optimizers keep to what a shadow copies. Any other one takes some steps on tiny
    tensors, then a shadow is made and takes the further ones beside it.

    Raises:
        Exception: whatever the optimizer raises when it takes a step.
    """
    probes = _probes(parameters)
    optimizer = factory(list(probes))
    if qualified_name(optimizer) in _ELEMENTWISE and _is_torch_s_own(optimizer):
        return True
    own = Shard(0, tuple(probes), optimizer)
    gradients = [torch.linspace(-1, 1, probe.numel()).reshape(probe.shape) for probe in probes]
    for _ in range(_SHADOWED_STEPS):
        step(optimizer, probes, [gradient.clone() for gradient in gradients], 0.7)
    try:
        shadow = Shadow(1, own, steps=True)
        for target, source in zip(shadow.expect(own), contents(own), strict=True):
            target.copy_(source)
        for _ in range(_SHADOWED_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = group.get("lr", 1.0) * 0.9
            shadow.take_hyperparameters(optimizer)
            for pending, gradient in zip(shadow.pending, gradients, strict=True):
                pending.copy_(gradient)
            step(optimizer, probes, [gradient.clone() for gradient in gradients], 0.7)
            shadow.apply(0.7)
    except Exception:
        # Whatever goes wrong only in a copy.
        return False
    pairs = zip(contents(own), contents(shadow.shard), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def _is_torch_s_own(optimizer: torch.optim.Optimizer) -> bool:
    """Whether nothing of the user's takes part in a step."""
    hooks = [value for name, value in vars(optimizer).items() if name.endswith("hooks") and value]
    return type(optimizer).__module__.startswith("torch.optim.") and not hooks


def _is_elementwise(
    factory: OptimizerFactory,
    optimizer: torch.optim.Optimizer,
    plain: list[nn.Parameter],
    parameters: list[nn.Parameter],
) -> bool:
    name = qualified_name(optimizer)
    if name in _ELEMENTWISE or name in _NOT_ELEMENTWISE:
        return name in _ELEMENTWISE
    # Another gradient for the first element must leave all other elements as they were.
    disturbed = _probes(parameters)
    _step_twice(factory(list(disturbed)), disturbed, first_gradient=7.0)
    return all(
        torch.equal(one.detach().flatten()[1:], other.detach().flatten()[1:])
        for one, other in zip(plain, disturbed, strict=True)
    )


def _probes(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    shapes = [[min(side, PROBE_SIDE) for side in parameter.shape] for parameter in parameters]
    return [nn.Parameter(torch.linspace(1, 2, max(1, _numel(s))).reshape(s)) for s in shapes]


def _numel(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


def _step_twice(
    optimizer: torch.optim.Optimizer, probes: list[nn.Parameter], first_gradient: float = 0.5
) -> None:
    for _ in range(2):
        for tensor in probes:
            gradient = torch.linspace(-1, 1, tensor.numel())
            gradient[0] = first_gradient
            tensor.grad = gradient.reshape(tensor.shape)
        optimizer.step()
