"""Tensor parallelism: ranks divide single layers among them, beside data parallelism.

The layers that the user's plan names are cut in place. Everything else all ranks of the tensor axis
compute alike, from the same numbers, so that what is not cut stays the same on all of them without
being sent. DDP reduces gradients along the data axis.
"""

from dataclasses import replace
from math import prod

import torch
from torch import nn

from reknit.comm.collectives import Collectives
from reknit.comm.group import RankGroup
from reknit.errors import ConfigurationError
from reknit.inspection.optimizer import can_shadow, probe
from reknit.layout import Precision
from reknit.mesh import Axis
from reknit.state.description import Interval, LocalState, Piece, StateSource, TensorSpec
from reknit.state.intervals import Placed, one_by_one
from reknit.state.layout import Holder, Replica, StateLayout
from reknit.state.optimizer import step
from reknit.state.shard import Shard
from reknit.strategies.base import (
    Built,
    Recipe,
    Sharded,
    build,
    gradient_norm,
    persistent_buffers,
)
from reknit.strategies.data_parallel import DataParallel
from reknit.strategies.placement import shapes_of
from reknit.strategies.tensor_cutting import CutModel, cuts_of

_TOLERANCE = 1e-3
"""By how much lengths of gradients may differ that ought to be the same."""


class TensorAxis:
    """The tensor axis of whatever generation this is."""

    def __init__(self, ranks: Collectives) -> None:
        self.ranks = ranks

    @property
    def size(self) -> int:
        """How many they are."""
        return self.ranks.world_size

    @property
    def place(self) -> int:
        """Which of them this is."""
        return self.ranks.rank

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over these ranks; in place."""
        return self.ranks.all_reduce(tensor)

    def join(self, tensor: torch.Tensor) -> torch.Tensor:
        """What each of them has, one after the other along the last dimension."""
        return torch.cat(self.ranks.gather(tensor).unbind(), dim=-1)


class TensorParallel(DataParallel, Sharded):
    """A model of which every rank of the tensor axis holds a part of the layers that are cut.

    The optimizer updates masters that share their memory with the model's parameters: so what a
    rank holds stays in place when the model is made whole for another generation.
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
        model, parameters = built.model, built.parameters
        self._axis = TensorAxis(group.along(Axis.TENSOR))
        cuts = cuts_of(model, recipe.tensor_plan, self._axis.size)
        if not installs:
            _check_elementwise(recipe, built)
            group.broadcast([*model.parameters(), *model.buffers()])
        self.is_shadowable = can_shadow(recipe.optimizer, list(parameters))
        self.model = model
        self._recipe = recipe
        self._parameters = parameters
        self._shapes = shapes_of(model)
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._is_checked = installs
        """Whether gradients of what is not cut were found to be alike, or need not be."""
        self._cut = CutModel(model, cuts, self._axis)
        self.optimizer, masters = _with_masters(recipe, parameters)
        frozen = tuple(
            parameter.detach()
            for name, parameter in model.named_parameters()
            if not parameter.requires_grad and name in self._cut.divisions
        )
        self.shard = Shard(group.rank, masters, self.optimizer, frozen)
        self._wrap(recipe.loss, group.device, precision)
        self._join(group)

    def gradient_norm(self) -> torch.Tensor:
        """Of every so many tensors, along the data axis; of what is not cut at one place alone.

        Raises:
            ConfigurationError: a parameter that is not cut has another gradient on each rank.
        """
        pairs = list(zip(self._parameters, self.reduced(), strict=True))
        whole = [(p, gradient) for p, gradient in pairs if not self._is_cut(p)]
        if not self._is_checked:
            self._check_alike(whole)
            self._is_checked = True
        counted = [gradient for p, gradient in pairs if self._is_cut(p)]
        if self._axis.place == 0:
            counted += [gradient for _, gradient in whole]
        own = counted[self._group.place.data :: self._group.mesh.num_data]
        return gradient_norm(own, self._group.device) * self._factors.after

    def reduced(self) -> tuple[torch.Tensor, ...]:
        """As DDP has reduced it; zero where nothing was used."""
        return tuple(
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self._parameters
        )

    def multiplier(self, factor: float) -> float:
        """DDP averages."""
        return factor * self._factors.after

    def apply(self, factor: float) -> None:
        """One step of the user's optimizer on what this rank holds."""
        step(self.optimizer, self.shard.masters, self.reduced(), self.multiplier(factor))
        self.discard()

    def describe(self) -> LocalState:
        """This rank's parts of what is cut, and all of what is not."""
        return self.layout_of(self.shard).describe(self._group.rank, self._group.world_size)

    def layout_of(self, shard: Shard) -> StateLayout:
        """Parts of a parameter lie where its division says, the others are whole."""
        mesh = self._group.mesh
        place = mesh.coordinates(shard.rank)
        peers, everyone = Replica(place.data, mesh.num_data), Replica(shard.rank, mesh.world_size)
        holders: list[Holder] = []
        fixed: list[Piece] = []
        for parameter, master in zip(self._parameters, shard.masters, strict=True):
            name = self._names[id(parameter)]
            placed = tuple(self._placed(name, place.tensor))
            replica = peers if self._is_cut(parameter) else everyone
            holders.append(Holder(master, (name,), placed, replica))
        named = dict(self.model.named_parameters())
        trained = {holder.names[0] for holder in holders}
        frozen = {name: p for name, p in named.items() if name not in trained}
        divided = [name for name in frozen if name in self._cut.divisions]
        for name, part in zip(divided, shard.frozen, strict=True):
            fixed += Holder(part, (name,), tuple(self._placed(name, place.tensor))).pieces(
                "param/", part.view(-1)
            )
        buffers = persistent_buffers(self.model)
        return StateLayout(
            optimizer=shard.optimizer,
            shapes={name: shape for name, shape in self._shapes.items() if name in trained},
            holders=tuple(holders),
            replicated=False,
            whole={f"param/{n}": p.detach() for n, p in frozen.items() if n not in divided}
            | {f"buffer/{name}": buffer for name, buffer in buffers.items()},
            fixed=tuple(fixed),
            fixed_specs={
                f"param/{name}": TensorSpec(self._shapes[name], named[name].dtype)
                for name in divided
            },
            fixed_replica=peers,
        )

    def install(self, source: StateSource) -> None:
        """Reads this rank's parts."""
        self.layout_of(self.shard).install(source)

    def regroup(self, group: RankGroup) -> bool:
        """Goes on with what it holds, if its place along an axis of the same length is the same."""
        axis = group.along(Axis.TENSOR)
        if (axis.world_size, axis.rank) != (self._axis.size, self._axis.place):
            return False
        self._axis.ranks = axis
        self._is_checked = True
        self.shard = replace(self.shard, rank=group.rank)
        self._rejoin(group)
        return True

    def parts(self) -> Built:
        """The model is whole again; what this strategy holds stays as it is."""
        # Also of a step that was broken off: it would be added to the next one's.
        self.discard()
        self._cut.restore()
        optimizer = self._recipe.optimizer(list(self._parameters))
        return Built(self.model, optimizer, self._parameters)

    def _is_cut(self, parameter: nn.Parameter) -> bool:
        return self._names[id(parameter)] in self._cut.divisions

    def _placed(self, name: str, place: int) -> tuple[Placed, ...]:
        division = self._cut.divisions.get(name)
        if division is None:
            return (Placed(0, Interval(0, prod(self._shapes[name])), 0),)
        return tuple(one_by_one(division.intervals(self._axis.size, place)))

    def _check_alike(self, whole: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
        if not whole:
            return
        own = torch.stack([gradient.norm().double().cpu() for _, gradient in whole])
        everyone = self._axis.ranks.gather(own)
        differs = (everyone - everyone[0]).abs().amax(dim=0) > _TOLERANCE * everyone.amax(dim=0)
        for (parameter, _), differing in zip(whole, differs.tolist(), strict=True):
            if differing:
                raise ConfigurationError(
                    "job.engine: tensor_plan: the gradient of "
                    f"{self._names[id(parameter)]}, which is not cut, differs between ranks, as it "
                    "is used between a Column and the Row that follows; move it before or behind "
                    "the two, or leave these out of the plan"
                )


def _with_masters(
    recipe: Recipe, parameters: tuple[nn.Parameter, ...]
) -> tuple[torch.optim.Optimizer, tuple[nn.Parameter, ...]]:
    """An optimizer that updates the memory of `parameters`, and what it updates, in their order."""
    # Made anew: some keep state of the parameters' shapes from the beginning.
    optimizer = recipe.optimizer(list(parameters))
    masters = {id(p): nn.Parameter(p.detach()) for p in parameters}
    for group in optimizer.param_groups:
        group["params"] = [masters[id(parameter)] for parameter in group["params"]]
    for parameter in parameters:
        if parameter in optimizer.state:
            optimizer.state[masters[id(parameter)]] = optimizer.state.pop(parameter)
    return optimizer, tuple(masters.values())


def _check_elementwise(recipe: Recipe, built: Built) -> None:
    if not probe(recipe.optimizer, list(built.parameters)).elementwise:
        raise ConfigurationError(
            f"job.engine: the optimizer {type(built.optimizer).__name__} needs whole tensors, "
            "which tensor parallelism divides among the ranks; set spec.parallelism.tensor to 1 or "
            "take an elementwise one, e.g. AdamW"
        )
