"""What user code sees: a `Job` that makes an `Engine` and hands out batches.

The same surface is implemented twice: by a rank that trains, and by the inspection behind
`reknit validate` and `reknit plan`, which runs the user's function on the meta device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from reknit.cuts import TensorPlan
from reknit.protocol.base import Json

ModelFactory: TypeAlias = Callable[[], nn.Module]
OptimizerFactory: TypeAlias = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""Called with the trainable parameters, tied ones once, in the order of registration."""
ScheduleFactory: TypeAlias = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
Loss: TypeAlias = Callable[[nn.Module, Any], torch.Tensor]
"""loss(model, micro_batch) -> scalar: the mean over the samples of the micro-batch."""
Transform: TypeAlias = Callable[[Any, torch.Generator], Any]
"""transform(sample, generator) -> sample; the generator is seeded by step and micro-batch.

It runs in a thread that loads ahead, while the model draws from the global generators of torch,
NumPy and Python. A transform that draws from those is therefore not reproducible; what needs a
generator of another kind can be seeded by `int(torch.randint(2**31, (), generator=generator))`.
"""
Collate: TypeAlias = Callable[[list[Any]], Any]


class Dataset(Protocol):
    """A map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Batch(Protocol):
    """One global batch, as a handle; its samples are drawn inside `Engine.train_step`."""

    @property
    def step(self) -> int:
        """The number of steps committed before this one."""
        ...


class Engine(ABC):
    """Owns model, optimizer and schedule, and the training step with its recovery."""

    @abstractmethod
    def train_step(self, batch: Batch) -> float:
        """Forward, backward, reduction, gate and update of one global batch.

        Returns the mean loss over the samples of the global batch, the same on every rank.
        """

    @abstractmethod
    def evaluate(
        self,
        dataset: Dataset,
        *,
        loss: Loss | None = None,
        transform: Transform | None = None,
        collate: Collate | None = None,
        limit: int | None = None,
    ) -> float:
        """Mean of `loss` (default: the training loss) over the first `limit` samples of `dataset`.

        Runs without gradients and in evaluation mode; the samples are divided among the ranks, and
        every rank gets the same figure.
        """


class Job(ABC):
    """One run of the user's function on one rank."""

    seed: int
    state: dict[str, Json]
    """The user's own state: JSON, the same on every rank, committed with every step."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """This process among all of the job; another one after a change of the world."""

    @property
    @abstractmethod
    def world_size(self) -> int:
        """Ranks at present."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where this rank computes."""

    @abstractmethod
    def engine(
        self,
        *,
        model: ModelFactory,
        optimizer: OptimizerFactory,
        loss: Loss,
        schedule: ScheduleFactory | None = None,
        clip_grad_norm: float | None = None,
        pretrained: str | PathLike[str] | None = None,
        tensor_plan: TensorPlan | None = None,
    ) -> Engine:
        """The engine of this job; to be called once.

        Args:
            model: builds the model with random weights; the generator is seeded by the job's seed.
            optimizer: builds the optimizer, e.g. `lambda params: AdamW(params, lr=1e-3)`.
            loss: the mean loss of one micro-batch.
            schedule: builds a learning-rate schedule; it advances once per committed update.
            clip_grad_norm: the largest allowed norm of the whole gradient.
            pretrained: a safetensors file whose tensors are loaded into the new model by name.
            tensor_plan: how layers are cut if `parallelism.tensor` is more than 1, by names of
                modules in which a * stands for any one part between dots, e.g.
                {"blocks.*.up": Column(), "blocks.*.down": Row()}.
        """

    @abstractmethod
    def batches(
        self,
        dataset: Dataset,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        transform: Transform | None = None,
        collate: Collate | None = None,
        shuffle: bool = True,
        clients: Sequence[int] | None = None,
    ) -> Iterator[Batch]:
        """The global batches from where the job stands up to `steps` or `epochs`.

        Under federated averaging, and only there, `clients` says which client owns each sample, by
        a number from 0 on. Client c is at home on rank c modulo the number of ranks, and no other
        rank asks the data set for its samples.

        Exactly one of `steps` and `epochs` is given. The order is a pure function of seed, epoch
        and position; positions run on across epochs, so that a batch may hold samples of two. Only
        what is left of the last epoch and does not fill a global batch goes unused.
        """

    @abstractmethod
    def log(self, **metrics: float) -> None:
        """Adds figures of the step just committed to metrics, display and report."""


def unique_parameters(parameters: Iterable[nn.Parameter]) -> Sequence[nn.Parameter]:
    """The trainable parameters, tied ones once, in order."""
    seen: dict[int, nn.Parameter] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            seen.setdefault(id(parameter), parameter)
    return list(seen.values())
