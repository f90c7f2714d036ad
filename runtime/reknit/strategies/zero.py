"""ZeRO 1, 2 and 3: optimizer state, gradients and parameters divided among the ranks by DeepSpeed.

DeepSpeed holds and moves the tensors. What belongs to the gate that all strategies share, the
norm, clipping, the loss scale and the decision to apply, is done here on its gradient shards.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from reknit.comm.group import RankGroup
from reknit.errors import ConfigurationError
from reknit.inspection.optimizer import can_shadow, probe
from reknit.job import Loss
from reknit.layout import BatchPlan, Precision, Sharding
from reknit.protocol.base import Json
from reknit.protocol.settings import BatchSettings
from reknit.state.description import StateSource
from reknit.state.optimizer import step
from reknit.strategies.base import (
    Built,
    Factors,
    LossModule,
    OneByOne,
    Recipe,
    averaging_factors,
    build,
    gradient_norm,
)
from reknit.strategies.deepspeed_config import build_config, contradictions
from reknit.strategies.deepspeed_engine import make_engine, release
from reknit.strategies.footprint import Footprint
from reknit.strategies.placement import Partitioned, shapes_of
from reknit.strategies.zero_gradients import drop, take
from reknit.strategies.zero_layout import own_shard, placement_of, refresh
from reknit.trainer.timing import Stopwatch

_NORM_ELEMENTS: Final = 1 << 20
"""Whose norm is taken at once."""


class ZeRO(Partitioned, OneByOne):
    """A model whose training DeepSpeed shards.

    Under BF16 and FP16 the parameters are in that format, and the optimizer works on FP32 masters;
    forward runs under autocast besides, so inputs need no conversion by user code.
    """

    def __init__(
        self,
        recipe: Recipe,
        group: RankGroup,
        *,
        seed: int,
        sharding: Sharding,
        precision: Precision,
        plan: BatchPlan,
        deepspeed_config: Mapping[str, Json],
        built: Built | None = None,
        installs: bool = False,
    ) -> None:
        problems = contradictions(
            deepspeed_config,
            sharding=sharding,
            precision=precision,
            batch=BatchSettings(global_batch=plan.global_batch, micro=plan.micro),
        )
        if problems:
            raise ConfigurationError("; ".join(problems))
        built = built or build(recipe, seed=seed, device=group.device)
        if not installs:
            _check_divisible(recipe, built, sharding)
            group.broadcast([*built.model.parameters(), *built.model.buffers()])
        self.is_shadowable = can_shadow(recipe.optimizer, list(built.parameters))
        self.model = built.model
        self.optimizer = built.optimizer
        self._built = built
        self._recipe = recipe
        self._group = group
        self._sharding = sharding
        # ZeRO 1 and 2 are told to add, ZeRO 3 always divides by the number of ranks.
        self._factors = (
            averaging_factors(group.world_size, precision)
            if sharding is Sharding.ZERO3
            else Factors(1.0, 1.0)
        )
        self._due = False
        """Whether there is a reduced gradient that was neither applied nor dropped."""
        self._reduced: tuple[torch.Tensor, ...] | None = None
        exact = {} if precision is Precision.FP32 or installs else _copies(built)
        config = build_config(
            deepspeed_config,
            sharding=sharding,
            precision=precision,
            micro=plan.micro,
            num_steps=plan.num_steps,
        )
        self._engine: Any = None
        shapes = shapes_of(built.model)
        module = LossModule(built.model, recipe.loss, group.device, precision)
        self._footprint = Footprint(module)
        try:
            self._engine = make_engine(module, built, config)
        finally:
            self._footprint.complete()
            if self._engine is None:
                self.close()
        self._zero = self._engine.optimizer
        self._placement = placement_of(self._zero, built.model, sharding, shapes, group.world_size)
        self.shard = own_shard(self._zero, built.optimizer, built.model, sharding, group.rank)
        if exact:
            # DeepSpeed makes the masters from parameters that it has already rounded.
            self.layout_of(self.shard).set_parameters(exact)

    def micro_step(
        self, data: Any, factor: float, *, last: bool, stopwatch: Stopwatch
    ) -> torch.Tensor:
        """Forward and backward; reduces at the last one (ZeRO 1) or at each (ZeRO 2 and 3)."""
        self._engine.set_gradient_accumulation_boundary(last)
        with stopwatch.phase("forward"):
            loss: torch.Tensor = self._engine(data)
        with stopwatch.phase("backward"):
            scaled = loss.float() * (factor * self._factors.before)
            self._engine.backward(scaled, scale_wrt_gas=False)
        self._due = last
        return loss.detach()

    def gradient_norm(self) -> torch.Tensor:
        """Of this rank's partition, in parts, as FP32 sums of many squares are not precise."""
        parts = [part for flat in self.reduced() for part in torch.split(flat, _NORM_ELEMENTS)]
        return gradient_norm(parts, self._group.device) * self._factors.after

    def reduced(self) -> tuple[torch.Tensor, ...]:
        """As DeepSpeed has reduced it; the padding is zero."""
        if self._reduced is None:
            self._reduced = take(self._zero, self._sharding)
        return self._reduced

    def multiplier(self, factor: float) -> float:
        """ZeRO 3 may have divided by the number of ranks."""
        return factor * self._factors.after

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer on this rank's partition; gathers the weights."""
        self._update(factor)
        self.updated()
        drop(self._zero, self._sharding)
        refresh(self._zero, self._sharding)

    def discard(self) -> None:
        """Drops the gradient, on this rank alone."""
        self._due, self._reduced = False, None
        drop(self._zero, self._sharding)

    def install(self, source: StateSource) -> None:
        """Reads this rank's partition and gathers the weights from all partitions."""
        self.layout_of(self.shard).install(source)
        refresh(self._zero, self._sharding)

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """Through DeepSpeed's module, whose hooks gather ZeRO 3's parameters."""
        result: torch.Tensor = self._engine.module(data, loss)
        return result

    def close(self) -> None:
        """Ends DeepSpeed's engine and forgets its process groups."""
        release(self._engine)
        self._engine = None
        self._footprint.remove()

    def _update(self, factor: float) -> None:
        """Masters and optimizer state of the next version, without communication."""
        gradients = self.reduced()
        self._due, self._reduced = False, None
        step(self.optimizer, self.shard.masters, gradients, self.multiplier(factor))


def _copies(built: Built) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in built.model.named_parameters()}


def _check_divisible(recipe: Recipe, built: Built, sharding: Sharding) -> None:
    """Refuses what DeepSpeed does not divide, or would divide wrongly without a word."""
    if sharding is Sharding.ZERO3:
        for parameter_name, parameter in built.model.named_parameters():
            if parameter.ndim == 0:
                raise ConfigurationError(
                    f"job.engine: ZeRO 3 cannot hold {parameter_name}, a parameter without "
                    "dimensions; give it the shape (1,)"
                )
    name = type(built.optimizer).__name__
    probes: list[nn.Parameter] = list(built.parameters)
    if not probe(recipe.optimizer, probes).elementwise:
        raise ConfigurationError(
            f"job.engine: the optimizer {name} needs whole tensors, which ZeRO divides among the "
            "ranks; set spec.parallelism.sharding to None or take an elementwise one, e.g. AdamW"
        )
    groups = built.optimizer.param_groups
    if any(not group["params"] for group in groups):
        raise ConfigurationError(
            "job.engine: the optimizer has a parameter group without parameters, which ZeRO does "
            "not allow; leave it out"
        )
    if isinstance(built.optimizer, torch.optim.Adagrad) and len(groups) > 1:
        raise ConfigurationError("job.engine: under ZeRO Adagrad can have one parameter group only")
