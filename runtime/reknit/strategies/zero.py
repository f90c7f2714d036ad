"""ZeRO 1, 2 and 3: optimizer state, gradients and parameters divided among the ranks by DeepSpeed.

DeepSpeed holds and moves the tensors. What belongs to the gate that all strategies share, the
norm, clipping, the loss scale and the decision to apply, is done here on its gradient shards.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reknit.comm.group import RankGroup
from reknit.errors import ConfigurationError
from reknit.inspection.optimizer import probe
from reknit.job import Loss
from reknit.layout import BatchPlan, Precision, Sharding
from reknit.protocol.base import Json
from reknit.protocol.settings import BatchSettings
from reknit.state.description import LocalState, StateSource
from reknit.state.layout import StateLayout
from reknit.strategies.base import (
    Built,
    Factors,
    LossModule,
    Recipe,
    Strategy,
    averaging_factors,
    build,
    gradient_norm,
    scale_gradients,
)
from reknit.strategies.deepspeed_config import build_config, contradictions
from reknit.strategies.deepspeed_engine import make_engine, release
from reknit.strategies.zero_layout import names_of, partitioned_layout, refresh, sharded_layout
from reknit.trainer.timing import Stopwatch


class ZeRO(Strategy):
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
    ) -> None:
        problems = contradictions(
            deepspeed_config,
            sharding=sharding,
            precision=precision,
            batch=BatchSettings(global_batch=plan.global_batch, micro=plan.micro),
        )
        if problems:
            raise ConfigurationError("; ".join(problems))
        built = build(recipe, seed=seed, device=group.device)
        _check_divisible(recipe, built, sharding)
        group.broadcast([*built.model.parameters(), *built.model.buffers()])
        self.model = built.model
        self._group = group
        self._sharding = sharding
        self._names = names_of(built.model)
        # ZeRO 1 and 2 are told to add, ZeRO 3 always divides by the number of ranks.
        self._factors = (
            averaging_factors(group.world_size, precision)
            if sharding is Sharding.ZERO3
            else Factors(1.0, 1.0)
        )
        exact = {} if precision is Precision.FP32 else _copies(built)
        self._engine = make_engine(
            LossModule(built.model, recipe.loss, group.device, precision),
            built,
            build_config(
                deepspeed_config,
                sharding=sharding,
                precision=precision,
                micro=plan.micro,
                num_steps=plan.num_steps,
            ),
        )
        self._zero = self._engine.optimizer
        self.optimizer = self._zero.optimizer
        if exact:
            # DeepSpeed makes the masters from parameters that it has already rounded.
            self._layout().set_parameters(exact)

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
        return loss.detach()

    def gradient_norm(self) -> torch.Tensor:
        """Of this rank's partition."""
        return gradient_norm(self._gradients(), self._group.device) * self._factors.after

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer on this rank's partition; gathers the weights."""
        scale_gradients(self._gradients(), factor * self._factors.after)
        self._engine.step()
        assert self._engine.was_step_applied(), "DeepSpeed left out an update that was due"
        self._clear()

    def discard(self) -> None:
        """Lets DeepSpeed find an overflow, which makes it drop the gradient everywhere."""
        self._gradients()[0].view(-1)[0] = torch.inf
        self._engine.step()
        assert not self._engine.was_step_applied(), "DeepSpeed applied an update to be left out"
        self._clear()

    def describe(self) -> LocalState:
        """FP32 masters and optimizer state of this rank's partition; buffers."""
        return self._layout().describe(self._group.rank, self._group.world_size)

    def install(self, source: StateSource) -> None:
        """Reads this rank's partition and gathers the weights from all partitions."""
        self._layout().install(source)
        refresh(self._zero, self._sharding)

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """Through DeepSpeed's module, whose hooks gather ZeRO 3's parameters."""
        result: torch.Tensor = self._engine.module(data, loss)
        return result

    def close(self) -> None:
        """Ends DeepSpeed's engine and forgets its process groups."""
        release(self._engine)

    def _gradients(self) -> list[torch.Tensor]:
        """The reduced gradient of this rank's partition; the padding in it is zero."""
        if self._sharding is Sharding.ZERO3:
            return [self._zero.grad_partitions_flat_buffer]
        return [gradient for group in self._zero.averaged_gradients.values() for gradient in group]

    def _clear(self) -> None:
        if self._sharding is Sharding.ZERO3:
            # Else a parameter that goes unused in the next step is updated with this gradient.
            self._zero.grad_partitions_flat_buffer.zero_()

    def _layout(self) -> StateLayout:
        make = sharded_layout if self._sharding is Sharding.ZERO3 else partitioned_layout
        return make(self._zero, self.model, self._names, self._group.rank, self._group.world_size)


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
