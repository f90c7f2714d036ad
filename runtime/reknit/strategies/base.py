"""What every strategy does for the training step, and the parts they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from reknit.arguments import check_loss_value
from reknit.comm.group import RankGroup
from reknit.cuts import TensorPlan
from reknit.data.generators import seed_generators
from reknit.errors import ConfigurationError
from reknit.job import Loss, ModelFactory, OptimizerFactory, ScheduleFactory, unique_parameters
from reknit.layout import Precision
from reknit.state.description import LocalState, StateSource
from reknit.state.layout import StateLayout
from reknit.state.shard import Shard
from reknit.trainer.timing import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the user's code passed to `job.engine`."""

    model: ModelFactory
    optimizer: OptimizerFactory
    loss: Loss
    schedule: ScheduleFactory | None = None
    clip_grad_norm: float | None = None
    pretrained: str | PathLike[str] | None = None
    tensor_plan: TensorPlan | None = None


@dataclass(frozen=True)
class Built:
    """The results of a recipe's factories."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: tuple[nn.Parameter, ...]
    """The trainable ones."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One micro-batch of a step."""

    data: Callable[[], Any]
    """The micro-batch, on the rank's device."""
    factor: float
    """The weight of its mean loss in the gradient, times the loss scale."""
    seed: Callable[[], None]
    """Seeds the generators for it; to be called right before its forward pass."""


class Strategy(ABC):
    """One rank's model and optimizer, and how its step is shared with the other ranks.

    A step is: `compute`, which also reduces the gradient over the ranks; `gradient_norm`; then
    either `apply` or `discard`. If that is broken off because the generation ends, `complete` does
    what of it is this rank's own.
    """

    model: nn.Module
    """The user's model, bare."""
    optimizer: torch.optim.Optimizer
    """The user's optimizer; which tensors it updates is the strategy's affair."""
    clips = False
    """Whether it clips gradients by itself, before they are reduced."""
    updated: Callable[[], None] = staticmethod(lambda: None)
    """Called when the local part of an update is done, and the weights are to be gathered."""
    knows_norm = True
    """Whether `gradient_norm` is a share of the norm of the whole gradient."""

    @abstractmethod
    def compute(
        self,
        passes: Sequence[Pass],
        stopwatch: Stopwatch,
        done: Callable[[int, torch.Tensor], None],
    ) -> None:
        """Forward and backward of this rank's micro-batches, and the reduction.

        Args:
            passes: the micro-batches.
            stopwatch: gets the times of `forward` and `backward`; a reduction that overlaps with
                backward counts as that.
            done: to be told the number of each micro-batch that is through, and its mean loss,
                detached; ranks without a part in the loss tell 0.
        """

    def share_buffers(self, group: RankGroup) -> None:
        """Gives all ranks the same buffers after forward passes have changed them."""
        group.broadcast(persistent_buffers(self.model).values())

    def hook_gradients(self, hook: Callable[[torch.Tensor], None]) -> Sequence[RemovableHandle]:
        """Has `hook` called with each parameter's gradient of each micro-batch, not yet reduced."""
        return [
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]
            for parameter in self.model.parameters()
            if parameter.requires_grad
        ]

    @abstractmethod
    def gradient_norm(self) -> torch.Tensor:
        """L2 norm, in FP64, of this rank's share of the reduced gradient.

        Over all ranks the squares add up to that of the whole gradient, still multiplied by the
        loss scale; a rank whose share another one counts returns 0.
        """

    def prepare(self, loss: float) -> None:
        """Brings the update where it can be completed whichever rank dies; before the gate.

        Args:
            loss: this rank's part of that of the step.
        """
        del loss

    @abstractmethod
    def apply(self, factor: float) -> None:
        """Multiplies the gradient by `factor` and updates the parameters with it."""

    @abstractmethod
    def discard(self) -> None:
        """Drops the gradient, leaving parameters and optimizer as they are."""

    @abstractmethod
    def complete(self, factor: float | None) -> None:
        """Ends a step whose gate was passed, without any communication.

        To be called when `apply` or `discard` was broken off or not begun. Afterwards what the
        optimizer updates on this rank, and its state, are those of the new version; weights that
        other ranks would have sent are not. No further step can be taken in this generation.

        Args:
            factor: that of `apply`; None instead of `discard`.
        """

    @abstractmethod
    def describe(self) -> LocalState:
        """This rank's share of parameters, buffers and optimizer state, as live views."""

    def describe_durable(self) -> LocalState:
        """The share of a checkpoint that this rank writes: it may be held elsewhere."""
        return self.describe()

    def begin(self, version: int, source: str | None) -> None:
        """Training begins with `version`, installed from a checkpoint or as it was built.

        All ranks together; for those who keep state elsewhere.

        Args:
            version: steps committed.
            source: the name of the checkpoint; None without one.
        """
        del version, source

    def lost(self) -> str | None:
        """The first thing of the version that this rank holds which is kept elsewhere, and gone."""
        return None

    @abstractmethod
    def install(self, source: StateSource) -> None:
        """Takes parameters, buffers and optimizer state from `source`."""

    @abstractmethod
    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """The mean of `loss` on one micro-batch, without gradients and in evaluation mode."""

    @abstractmethod
    def regroup(self, group: RankGroup) -> bool:
        """Goes on in another process group with all that it holds; all ranks together.

        The generation before may have been broken off anywhere. False if it cannot: then a new
        strategy has to take over its state.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives back what the strategy has outside of its own objects; without communication.

        What it holds can still be described and completed; more than one call does no harm.
        """

    @property
    @abstractmethod
    def is_replicated(self) -> bool:
        """Whether every rank holds the whole state; otherwise the strategy is `Sharded`."""


class OneByOne(Strategy):
    """A strategy that takes one micro-batch after the other."""

    def compute(
        self,
        passes: Sequence[Pass],
        stopwatch: Stopwatch,
        done: Callable[[int, torch.Tensor], None],
    ) -> None:
        """`micro_step` for each."""
        for number, each in enumerate(passes):
            each.seed()
            last = number == len(passes) - 1
            loss = self.micro_step(each.data(), each.factor, last=last, stopwatch=stopwatch)
            done(number, loss)

    @abstractmethod
    def micro_step(
        self, data: Any, factor: float, *, last: bool, stopwatch: Stopwatch
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch; with the last one the gradient is reduced.

        Args:
            data: the micro-batch.
            factor: the weight of its mean loss in the gradient, times the loss scale.
            last: whether it is the last one of the step.
            stopwatch: gets the times.

        Returns the mean loss of the micro-batch, detached.
        """


class Sharded(Strategy):
    """A strategy that divides masters and optimizer state among the ranks.

    All ranks' shards have the same shapes, whatever lies in them; the rest is padding.
    """

    shard: Shard
    """What only this rank holds."""
    is_shadowable: bool
    """Whether another rank can follow the optimizer's steps on a copy of the shard."""

    @abstractmethod
    def reduced(self) -> tuple[torch.Tensor, ...]:
        """For each of the shard's masters the reduced gradient, flat, in FP32, padding included.

        To be asked between the last `micro_step` and `apply` or `discard`, before which it is
        multiplied by nothing yet.
        """

    @abstractmethod
    def multiplier(self, factor: float) -> float:
        """What `apply(factor)` multiplies `reduced()` by."""

    @abstractmethod
    def layout_of(self, shard: Shard) -> StateLayout:
        """Where the state lies in the shard of any rank."""

    @abstractmethod
    def parts(self) -> Built:
        """For a strategy in another generation: the same model and a new optimizer.

        To be asked after `close`. The values of the parameters are undefined.
        """

    @property
    def is_replicated(self) -> bool:
        """False."""
        return False

    def regroup(self, group: RankGroup) -> bool:
        """Masters belong to what has divided them."""
        del group
        return False


class LossModule(nn.Module):
    """The user's model and loss as one module.

    What wraps it (DDP, DeepSpeed) then sees one forward from micro-batch to loss, whatever the
    loss function does with the model.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, device: torch.device, precision: Precision
    ) -> None:
        super().__init__()
        self.model = model
        self._loss = loss
        self._device = device
        self._precision = precision

    def forward(self, data: Any, loss: Loss | None = None) -> torch.Tensor:
        """The loss of a micro-batch; `loss` replaces the training loss."""
        with autocast(self._device, self._precision):
            value = (loss or self._loss)(self.model, data)
        return check_loss_value(value)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Where forward passes lower the precision of weights in FP32."""
    half = precision is not Precision.FP32
    dtype = torch.float16 if precision is Precision.FP16 else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=half)


def build(recipe: Recipe, *, seed: int, device: torch.device) -> Built:
    """Calls the factories: random weights are those of the job's seed, the same on every rank.

    Raises:
        ConfigurationError: nothing can be trained, or the optimizer cannot be stepped by others.
    """
    seed_generators(seed, device)
    model = recipe.model().to(device)
    if recipe.pretrained is not None:
        # Imported here: most jobs have no use for it.
        from reknit.checkpoint.pretrained import load_pretrained

        load_pretrained(model, recipe.pretrained)
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_contiguous():
            # The state describes tensors by flat, row-major views.
            tensor.data = tensor.data.contiguous()
    parameters = unique_parameters(model.parameters())
    if not parameters:
        raise ConfigurationError("job.engine: the model has no trainable parameters")
    optimizer = recipe.optimizer(list(parameters))
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam):
        raise ConfigurationError(
            f"job.engine: the optimizer {type(optimizer).__name__} is not supported; take one that "
            "needs no closure and no sparse gradients, e.g. AdamW"
        )
    known = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        if any(id(parameter) not in known for parameter in group["params"]):
            raise ConfigurationError(
                "job.engine: the optimizer has parameters that are not the model's trainable ones; "
                "build it from the list that the factory is given"
            )
    return Built(model, optimizer, tuple(parameters))


def persistent_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that belong to the state, shared ones once, by name."""
    kept = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def tied_names(model: nn.Module) -> dict[str, str]:
    """Further names of shared parameters and buffers, each with the name that the state uses."""
    aliases = {}
    for everything in (
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    ):
        first: dict[int, str] = {}
        for name, tensor in everything:
            known = first.setdefault(id(tensor), name)
            if known != name:
                aliases[name] = known
    return aliases


@dataclass(frozen=True, slots=True)
class Factors:
    """What undoes a reduction that divides the gradient by the number of ranks."""

    before: float
    """For the loss."""
    after: float
    """For the reduced gradient."""


def averaging_factors(num_ranks: int, precision: Precision) -> Factors:
    """Before costs nothing; but FP16 would overflow at another loss scale for each world size."""
    return Factors(1.0, num_ranks) if precision is Precision.FP16 else Factors(num_ranks, 1.0)


def gradient_norm(gradients: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """L2 norm of all elements together, in FP64; not finite if an element is not."""
    if not gradients:
        return torch.zeros((), dtype=torch.float64, device=device)
    norms = torch._foreach_norm(list(gradients))  # noqa: SLF001 - torch's own clipping uses it
    whole: torch.Tensor = torch.linalg.vector_norm(torch.stack([norm.double() for norm in norms]))
    return whole


def scale_gradients(gradients: Sequence[torch.Tensor], factor: float) -> None:
    """Multiplies in place; a factor of 1 leaves every bit."""
    if factor != 1.0 and gradients:
        torch._foreach_mul_(list(gradients), factor)


def gradients_of(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The gradients of the tensors that the optimizer updates."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield parameter.grad
