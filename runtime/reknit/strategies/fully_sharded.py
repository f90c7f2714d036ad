"""Fully sharded data parallelism by torch's FSDP2: every parameter is divided along its rows.

FSDP2 gathers weights and scatters gradients. Its sharded parameters are views into one flat master
per parameter group, which the user's optimizer updates; so the update, as under ZeRO, is one step
without any communication, and copies of shards can follow it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.hooks import RemovableHandle

from reknit.comm.group import RankGroup
from reknit.errors import ConfigurationError
from reknit.inspection.optimizer import can_shadow, probe
from reknit.job import Loss
from reknit.layout import Precision
from reknit.mesh import Axis
from reknit.state.description import StateSource
from reknit.state.intervals import Placed, by_rows
from reknit.state.optimizer import step
from reknit.state.shard import Shard
from reknit.strategies.base import (
    Built,
    LossModule,
    OneByOne,
    Recipe,
    build,
    gradient_norm,
)
from reknit.strategies.placement import Partitioned, Placement, shapes_of
from reknit.strategies.unit_wrapping import Original, units
from reknit.trainer.timing import Stopwatch

_LOW = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


@dataclass(frozen=True, slots=True)
class RowMaster:
    """A flat master in which each parameter has room for as many rows on every rank."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def placed(self, size: int, num_ranks: int, rank: int) -> Iterator[Placed]:
        """What lies in the master of `rank`, which has `size` elements."""
        assert size == sum(self.room(shape, num_ranks) for shape in self.shapes)
        return by_rows(self.shapes, num_ranks, rank)

    @staticmethod
    def room(shape: tuple[int, ...], num_ranks: int) -> int:
        """Elements that a parameter takes in the master."""
        return -(-shape[0] // num_ranks) * prod(shape[1:])


class FullySharded(Partitioned, OneByOne):
    """A model of which every rank of a shard group holds some rows of every trained parameter.

    Under BF16 and FP16 weights are gathered in that format and gradients reduced in FP32; masters
    are FP32. Parameters that are not trained stay whole on every rank.
    """

    def __init__(
        self,
        recipe: Recipe,
        group: RankGroup,
        *,
        seed: int,
        precision: Precision,
        built: Built | None = None,
        installs: bool = False,
    ) -> None:
        built = built or build(recipe, seed=seed, device=group.device)
        if not installs:
            _check_divisible(recipe, built)
            group.broadcast([*built.model.parameters(), *built.model.buffers()])
        self.is_shadowable = can_shadow(recipe.optimizer, list(built.parameters))
        self.model = built.model
        self.optimizer = built.optimizer
        self._recipe = recipe
        self._built = built
        self._group = group
        self._is_closed = False
        self._due = False
        """Whether there is a reduced gradient that was neither applied nor dropped."""
        self._reduced: tuple[torch.Tensor, ...] | None = None
        self._members: list[list[Any]] = []
        """FSDP2's parameters in each master, in order."""
        self._hooked: Callable[[torch.Tensor], None] | None = None
        shapes = shapes_of(built.model)
        names = {id(parameter): name for name, parameter in built.model.named_parameters()}
        places = {
            (id(module), key): names[id(parameter)]
            for module in built.model.modules()
            for key, parameter in module.named_parameters(recurse=False)
        }
        updated = {id(p): p for g in built.optimizer.param_groups for p in g["params"]}
        self._module = LossModule(built.model, recipe.loss, group.device, precision)
        self._original = Original(self._module)
        try:
            self._parts = _shard(self._module, group, precision, set(updated.values()))
            self._original.release()
            by_name = {places[_place(part)]: part for part in self._parts}
            masters, divided = self._merge_all(by_name, names, shapes)
        except BaseException:
            self.close()
            raise
        self._placement = Placement(
            built.model,
            group.mesh.num_shards,
            divided,
            shapes,
            divides_frozen=False,
            num_replicas=group.mesh.degree(Axis.REPLICA),
        )
        self.shard = Shard(group.rank, masters, built.optimizer)

    def _merge_all(
        self,
        parts: Mapping[str, Any],
        names: Mapping[int, str],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> tuple[tuple[torch.Tensor, ...], tuple[RowMaster, ...]]:
        """A master for each parameter group of the optimizer, which it is given instead."""
        masters, divided = [], []
        for parameter_group in self.optimizer.param_groups:
            own = tuple(names[id(parameter)] for parameter in parameter_group["params"])
            members = [parts[name] for name in own]
            master = _merge(members, self._group.device)
            parameter_group["params"] = [master]
            masters.append(master)
            divided.append(RowMaster(own, tuple(shapes[name] for name in own)))
            self._members.append(members)
        return tuple(masters), tuple(divided)

    def micro_step(
        self, data: Any, factor: float, *, last: bool, stopwatch: Stopwatch
    ) -> torch.Tensor:
        """Forward and backward; each backward scatters its gradient."""
        with stopwatch.phase("forward"):
            loss: torch.Tensor = self._module(data)
        self._hook_gathered()
        with stopwatch.phase("backward"):
            torch.autograd.backward(loss.float() * factor)
        self._due = last
        return loss.detach()

    def hook_gradients(self, hook: Callable[[torch.Tensor], None]) -> Sequence[RemovableHandle]:
        """Gathered parameters exist from the first forward pass on, and end with the strategy."""
        self._hooked = hook
        return ()

    def gradient_norm(self) -> torch.Tensor:
        """Of this rank's rows, which the first shard group counts for all."""
        counts = self._group.along(Axis.REPLICA).rank == 0
        return gradient_norm(list(self.reduced()) if counts else [], self._group.device)

    def reduced(self) -> tuple[torch.Tensor, ...]:
        """As FSDP2 has scattered it; zero in the padding, and where nothing was used."""
        if self._reduced is None:
            self._reduced = tuple(
                _flat_gradient(members, master)
                for members, master in zip(self._members, self.shard.masters, strict=True)
            )
        return self._reduced

    def multiplier(self, factor: float) -> float:
        """FSDP2 is told to add."""
        return factor

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer on this rank's rows, which are the weights, too."""
        self._update(factor)
        self.updated()

    def discard(self) -> None:
        """Drops the gradient, on this rank alone."""
        self._due, self._reduced = False, None
        for part in self._parts:
            part.sharded_param.grad = None

    def install(self, source: StateSource) -> None:
        """Reads this rank's rows."""
        self.layout_of(self.shard).install(source)

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """Through FSDP2's hooks, which gather the parameters."""
        result: torch.Tensor = self._module(data, loss)
        return result

    def close(self) -> None:
        """Gives the user's model its own parameters back, whose elements are undefined."""
        if not self._is_closed:
            self._is_closed = True
            self._original.restore()

    def _update(self, factor: float) -> None:
        gradients = self.reduced()
        step(self.optimizer, self.shard.masters, gradients, self.multiplier(factor))
        self.discard()

    def _hook_gathered(self) -> None:
        if self._hooked is None:
            return
        for part in self._parts:
            part.unsharded_param.register_hook(self._hooked)
        self._hooked = None


def _shard(
    module: LossModule, group: RankGroup, precision: Precision, trained: set[nn.Parameter]
) -> list[Any]:
    """Applies FSDP2; its parameter objects."""
    mesh = _device_mesh(group)
    policy = MixedPrecisionPolicy(
        param_dtype=_LOW.get(precision), reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    ignored = {parameter for parameter in module.parameters() if parameter not in trained}
    parts: list[Any] = []
    for unit in (*units(module.model), module):
        fully_shard(
            unit,
            mesh=mesh,
            # Also of the whole: what stays gathered after an evaluation would be out of date.
            reshard_after_forward=True,
            mp_policy=policy,
            ignored_params=ignored,
        )
        assert isinstance(unit, FSDPModule)
        # Sums, not means, and never in an order of the backend's own choice.
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)
    assert isinstance(module, FSDPModule)
    # Else hooks that it adds at the first forward pass would be taken for the user's.
    module._get_fsdp_state()._lazy_init()  # noqa: SLF001 - there is no other way
    for each in module.modules():
        if isinstance(each, FSDPModule):
            for parameter_group in each._get_fsdp_state()._fsdp_param_groups:  # noqa: SLF001
                parts += parameter_group.fsdp_params
    return parts


def _device_mesh(group: RankGroup) -> DeviceMesh:
    """Of the generation's own groups, which end with it."""
    shards, replicas = group.along(Axis.SHARD), group.along(Axis.REPLICA)
    if replicas.world_size == 1:
        # Also where this rank is alone.
        return DeviceMesh.from_group(shards.handle, group.device.type)
    ranks = torch.arange(group.world_size).view(replicas.world_size, shards.world_size)
    return DeviceMesh.from_group(
        [replicas.handle, shards.handle],
        group.device.type,
        mesh=ranks,
        mesh_dim_names=("replica", "shard"),
    )


def _place(part: Any) -> tuple[int, str]:
    """The module and the name in it of one of FSDP2's parameters."""
    info = part._module_info  # noqa: SLF001 - there is no other way
    return id(info.module), info.param_name


def _merge(members: list[Any], device: torch.device) -> nn.Parameter:
    """One flat tensor in the place of the members' own."""
    sizes = [part._sharded_param_data.numel() for part in members]  # noqa: SLF001
    master = torch.zeros(sum(sizes), device=device)
    for part, room in zip(members, torch.split(master, sizes), strict=True):
        room.copy_(part._sharded_param_data)  # noqa: SLF001
        part._sharded_param_data = room  # noqa: SLF001
        local = room[: prod(part.sharded_size)].view(part.sharded_size)
        part.sharded_param._local_tensor = local  # noqa: SLF001
    return nn.Parameter(master)


def _flat_gradient(members: list[Any], master: torch.Tensor) -> torch.Tensor:
    flat = torch.zeros_like(master)
    sizes = [part._sharded_param_data.numel() for part in members]  # noqa: SLF001
    for part, room in zip(members, torch.split(flat, sizes), strict=True):
        gradient = part.sharded_param.grad
        if gradient is not None:
            local = gradient._local_tensor  # noqa: SLF001 - without a graph
            room[: local.numel()].copy_(local.reshape(-1))
    return flat


def _check_divisible(recipe: Recipe, built: Built) -> None:
    for name, parameter in built.model.named_parameters():
        if parameter.ndim == 0:
            raise ConfigurationError(
                f"job.engine: FSDP cannot hold {name}, a parameter without dimensions; give it the "
                "shape (1,)"
            )
        if parameter.dtype is not torch.float32:
            raise ConfigurationError(
                f"job.engine: FSDP keeps masters in FP32, but {name} is {parameter.dtype}; build "
                "the model in FP32 and choose spec.precision"
            )
    if not probe(recipe.optimizer, list(built.parameters)).elementwise:
        raise ConfigurationError(
            f"job.engine: the optimizer {type(built.optimizer).__name__} needs whole tensors, "
            "which FSDP divides among the ranks; set spec.parallelism.sharding to None or take an "
            "elementwise one, e.g. AdamW"
        )
    if any(not group["params"] for group in built.optimizer.param_groups):
        raise ConfigurationError(
            "job.engine: the optimizer has a parameter group without parameters, which FSDP does "
            "not allow; leave it out"
        )
