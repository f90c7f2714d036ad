"""Rounds: each rank takes steps of its own, then all take one together on what they have moved.

With a common learning rate of 1 the ranks go on from the mean of their weights: local SGD (Stich,
2019). With Nesterov momentum it is DiLoCo (Douillard et al., "DiLoCo: Distributed Low-Communication
Training of Language Models", 2023). Where ranks stand in for clients, each with samples of its own,
it is federated averaging (McMahan et al., 2017).

A round is the step of the job: what it has moved is reduced,
passes the gate and is applied as a gradient elsewhere. Whatever the ranks do alone changes nothing
of the committed version, so that a round that was broken off is taken anew from where it began.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn

from reknit.comm.compression import FORMATS, mean_of_ranks
from reknit.comm.group import RankGroup
from reknit.errors import CheckpointMismatchError, ConfigurationError
from reknit.job import Loss
from reknit.layout import BatchPlan, Precision
from reknit.protocol.settings import Compression, RoundSettings, WorkerState
from reknit.state.description import Interval, LocalState, StateSource
from reknit.state.intervals import Placed
from reknit.state.layout import Holder, StateLayout
from reknit.state.remembered import Remembered
from reknit.state.round_protection import RoundProtection, worker_prefix
from reknit.strategies.base import (
    Built,
    LossModule,
    OneByOne,
    Recipe,
    build,
    gradient_norm,
    gradients_of,
    persistent_buffers,
    scale_gradients,
)
from reknit.trainer.gate import clip_factor
from reknit.trainer.timing import Stopwatch


class OuterSGD(torch.optim.SGD):
    """The common step; by its name a checkpoint knows that it was written in rounds."""


class Rounds(OneByOne):
    """Two sets of weights on every rank: those of the committed version, and those that move.

    The user's optimizer moves the model's own parameters; gradients are clipped there, on each rank
    alone. A parameter that goes unused in a local step has a gradient of zero in it.
    """

    clips = True

    def __init__(
        self,
        recipe: Recipe,
        group: RankGroup,
        plan: BatchPlan,
        settings: RoundSettings,
        *,
        seed: int,
        precision: Precision,
        compression: Compression = Compression.NONE,
        built: Built | None = None,
        installs: bool = False,
    ) -> None:
        self._clients = settings.clients_per_round
        self._passes = passes_per_local_step(plan, settings)
        self._passes_of_worker = self._passes * settings.local_steps
        built = built or build(recipe, seed=seed, device=group.device)
        if not installs:
            group.broadcast([*built.model.parameters(), *built.model.buffers()])
        self.model = built.model
        self.optimizer = built.optimizer
        self._group = group
        self._clip = recipe.clip_grad_norm
        self._format = FORMATS.get(compression, torch.float32)
        self._loss_module = LossModule(built.model, recipe.loss, group.device, precision)
        updated = {id(p) for entry in built.optimizer.param_groups for p in entry["params"]}
        self._moving = {n: p for n, p in built.model.named_parameters() if id(p) in updated}
        self._committed = [nn.Parameter(p.detach().clone()) for p in self._moving.values()]
        momentum = settings.outer_momentum
        self._outer = OuterSGD(
            self._committed,
            lr=settings.outer_learning_rate,
            momentum=momentum,
            nesterov=momentum > 0,
        )
        self._keeps = settings.worker_state is WorkerState.KEPT
        self._remembered = Remembered(self._moving)
        self._num_passes = 0
        """Of the round under way."""
        self._own: torch.Tensor | None = None
        """What this rank has moved, flat."""
        self._moved: list[torch.Tensor] = []
        """The reduced gradient of the common step."""

    def micro_step(
        self, data: Any, factor: float, *, last: bool, stopwatch: Stopwatch
    ) -> torch.Tensor:
        """Forward and backward, a local step after so many of them, the reduction at the last.

        A factor of 0 is that of a pass without samples, of a rank that has fewer clients in this
        round than another one: it goes through the same motions, so that all come equally far.
        """
        loss = torch.zeros((), device=self._group.device)
        if factor and self._num_passes % self._passes_of_worker == 0:
            self._begin_alone()
        with stopwatch.phase("forward"):
            if factor:
                loss = self._loss_module(data)
        with stopwatch.phase("backward"):
            if factor:
                torch.autograd.backward(loss / self._passes)
        self._num_passes += 1
        if self._num_passes % self._passes == 0:
            with stopwatch.phase("update"):
                if factor:
                    self._step_alone()
        if factor and self._num_passes % self._passes_of_worker == 0:
            self._end_alone(factor * self._passes_of_worker if self._clients else None)
        if last:
            with stopwatch.phase("communication"):
                self._reduce()
        return loss.detach()

    def gradient_norm(self) -> torch.Tensor:
        """Of every so many tensors of what was moved, which is the same on all ranks."""
        own = self._moved[self._group.rank :: self._group.world_size]
        return gradient_norm(own, self._group.device)

    def apply(self, factor: float) -> None:
        """The common step; what the ranks' optimizers have come to is committed with it."""
        scale_gradients(self._moved, factor)
        for parameter, moved in zip(self._committed, self._moved, strict=True):
            parameter.grad = moved
        self._outer.step()
        self._outer.zero_grad(set_to_none=True)
        if self._keeps:
            self._remembered.take(self.optimizer)
        self.discard()

    def discard(self) -> None:
        """Back to the committed version."""
        self._num_passes, self._own, self._moved = 0, None, []
        self._loss_module.zero_grad(set_to_none=True)
        self._return()

    def complete(self, factor: float | None) -> None:
        """The same as `apply` or `discard`, which do not communicate, and so are not broken off."""
        if factor is None:
            self.discard()
        else:
            self.apply(factor)

    def describe(self) -> LocalState:
        """The committed version, in the midst of a round too."""
        rank, num_ranks = self._group.rank, self._group.world_size
        state = self._layout().describe(rank, num_ranks)
        own = self._remembered.pieces(worker_prefix(rank))
        specs = dict(state.specs)
        for other in range(num_ranks):
            for name, spec in self._remembered.specs().items():
                specs[worker_prefix(other) + name] = spec
        return LocalState(
            specs,
            [*state.pieces, *own],
            [*state.written, *own],
            state.scalars | {"worker": self._remembered.scalars},
            own=worker_prefix(rank) if self._keeps else None,
        )

    def install(self, source: StateSource) -> None:
        """Reads everything; a rank that the state knows nothing of begins as another one did.

        Raises:
            CheckpointMismatchError: it is the state of another model, or of no rounds.
        """
        if "worker" not in source.scalars:
            raise CheckpointMismatchError(
                f"the checkpoint {source} does not fit: it was written without "
                "spec.communication.rounds, go on without them"
            )
        self._layout().install(source)
        if self._keeps:
            ranks = {name.split("/")[1] for name in source.specs if name.startswith("worker/")}
            prefix = worker_prefix(self._group.rank % max(1, len(ranks)))
            self._remembered.install(source, prefix, source.scalars["worker"])
        self.discard()

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """On the committed weights, as no round is under way."""
        result: torch.Tensor = self._loss_module(data, loss)
        return result

    def regroup(self, group: RankGroup) -> bool:
        """Goes on in place; the round that was broken off is forgotten."""
        assert group.world_size == self._group.world_size, "a world of rounds keeps its size"
        self._group = group
        self.discard()
        return True

    def close(self) -> None:
        """Nothing is held outside of its own objects."""

    @property
    def is_replicated(self) -> bool:
        """Not what the ranks' optimizers remember."""
        return not self._keeps

    def protect(self, holders: Sequence[int], wards: Sequence[int]) -> RoundProtection:
        """Copies of what the ranks' optimizers remember, filled; all ranks together."""
        protection = RoundProtection(
            self._group,
            self.optimizer,
            self._moving,
            self._remembered,
            holders=holders,
            wards=wards,
        )
        protection.fill()
        return protection

    def _begin_alone(self) -> None:
        """From the committed version, whoever has been at work here before."""
        self._return()
        self._remembered.give(self.optimizer)

    def _step_alone(self) -> None:
        for parameter in self._moving.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = list(gradients_of(self.optimizer))
        norm = float(gradient_norm(gradients, self._group.device)) if self._clip else 0.0
        scale_gradients(gradients, clip_factor(norm, self._clip))
        self.optimizer.step()
        self._loss_module.zero_grad(set_to_none=True)

    def _end_alone(self, share: float | None) -> None:
        """Notes what was moved, as a gradient points: backwards.

        Args:
            share: in the mean over all who take part; None if every rank has the same.
        """
        with torch.no_grad():
            pairs = zip(self._committed, self._moving.values(), strict=True)
            moved = torch.cat([(before - after).view(-1) for before, after in pairs])
            if share is not None:
                # The reduction divides by the number of ranks.
                moved *= share * self._group.world_size
            self._own = moved if self._own is None else self._own + moved

    def _reduce(self) -> None:
        """The mean over all who take part of what each has moved."""
        sizes = [parameter.numel() for parameter in self._committed]
        flat = self._own
        if flat is None:
            flat = torch.zeros(sum(sizes), device=self._group.device)
        mean_of_ranks(flat, self._group, self._format)
        self._moved = [
            part.view(parameter.shape)
            for part, parameter in zip(torch.split(flat, sizes), self._committed, strict=True)
        ]

    def _return(self) -> None:
        """The model's own parameters take the committed values."""
        with torch.no_grad():
            for parameter, committed in zip(self._moving.values(), self._committed, strict=True):
                parameter.copy_(committed)

    def _layout(self) -> StateLayout:
        named = zip(self._moving, self._committed, strict=True)
        holders = tuple(
            Holder(committed, (name,), (Placed(0, Interval(0, committed.numel()), 0),))
            for name, committed in named
        )
        frozen = (
            (f"param/{name}", parameter.detach())
            for name, parameter in self.model.named_parameters()
            if name not in self._moving
        )
        buffers = (
            (f"buffer/{name}", buffer) for name, buffer in persistent_buffers(self.model).items()
        )
        return StateLayout(
            optimizer=self._outer,
            shapes={holder.names[0]: tuple(holder.tensor.shape) for holder in holders},
            holders=holders,
            replicated=True,
            whole=dict(chain(frozen, buffers)),
        )


def passes_per_local_step(plan: BatchPlan, settings: RoundSettings) -> int:
    """Forward and backward passes in each local step of those who take part in a round.

    Raises:
        ConfigurationError: the micro-batches of a round cannot be divided evenly.
    """
    num_steps = (settings.clients_per_round or plan.num_ranks) * settings.local_steps
    if plan.num_micro_batches % num_steps:
        who = "ranks" if settings.clients_per_round is None else "clients"
        raise ConfigurationError(
            f"spec.communication.rounds: {plan.num_micro_batches} micro-batches in a round are no "
            f"multiple of the {num_steps} local steps of all {who}"
        )
    return plan.num_micro_batches // num_steps
