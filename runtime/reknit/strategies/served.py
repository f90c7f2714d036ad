"""Parameter servers in synchronous mode: ranks compute, servers keep and update the parameters.

A rank's gradient is pushed before the gate, so a step that has passed it cannot be lost; one that
has not is computed anew from the version before, which servers still have, and what they know of it
counts once. So whatever dies, the parameters are those of the undisturbed run.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from reknit.comm.group import RankGroup
from reknit.errors import ConfigurationError
from reknit.job import Loss
from reknit.layout import Precision
from reknit.parameter_server.binding import Binding
from reknit.parameter_server.client import Answer, Client, Pending
from reknit.parameter_server.lookups import Lookups
from reknit.parameter_server.messages import Joined
from reknit.parameter_server.plan import ParameterSpec, Plan
from reknit.parameter_server.recording import Part, combine_recordings
from reknit.parameter_server.refusals import NO_CLIPPING
from reknit.parameter_server.tensors import check_optimizer
from reknit.protocol.servers import Leases, Views
from reknit.protocol.settings import ENV_SERVER_TOKEN, ServerSettings
from reknit.state.description import LocalState, StateSource
from reknit.state.layout import StateLayout
from reknit.strategies.base import (
    Built,
    LossModule,
    OneByOne,
    Recipe,
    build,
    gradient_norm,
    persistent_buffers,
)
from reknit.trainer.link import Link
from reknit.trainer.timing import Stopwatch

_PATIENCE: Final = 0.1
"""Seconds between two looks at whether the generation has ended, while servers do not answer."""


def check_recipe(recipe: Recipe, specs: Sequence[ParameterSpec]) -> None:
    """Refuses what parameter servers cannot do.

    Raises:
        ConfigurationError: says what, and what to change.
    """
    if recipe.clip_grad_norm is not None:
        raise ConfigurationError(NO_CLIPPING)
    check_optimizer(recipe.optimizer, specs)


def max_frame_bytes(plan: Plan) -> int:
    """More than any message between a worker and a server, or two servers, needs at once."""
    return (1 << 20) + 2 * max(part.num_bytes for part in plan.ranges)


class Served(OneByOne):
    """A rank's model, whose trained parameters are those of servers.

    Args:
        recipe: what the user's code has asked for.
        group: the present process group.
        servers: how many there are, and how they work.
        link: the line to the agent, which says who serves.
        check: raises when the generation has ended.
        seed: of the job.
        precision: of forward and backward.
        built: model and optimizer that were built already.
        installs: a state is installed at once.

    Raises:
        ConfigurationError: parameter servers cannot train this model with this optimizer.
    """

    knows_norm = False

    def __init__(
        self,
        recipe: Recipe,
        group: RankGroup,
        servers: ServerSettings,
        *,
        link: Link,
        check: Callable[[], None],
        seed: int,
        precision: Precision,
        built: Built | None = None,
        installs: bool = False,
    ) -> None:
        built = built or build(recipe, seed=seed, device=group.device)
        self.model, self.optimizer = built.model, built.optimizer
        if not installs:
            group.broadcast(self._common().values())
        self._loss_module = LossModule(built.model, recipe.loss, group.device, precision)
        self._binding = Binding(built.model, servers.num_servers, servers.compression)
        check_recipe(recipe, self._binding.plan.specs)
        self._lookups = Lookups(built.model, self._binding.plan, self._fetch)
        self._servers, self._link, self._check = servers, link, check
        self._parameters = built.parameters
        self._client: Client | None = None
        self._clock = 0
        """The version that this rank holds."""
        self._installed: int | None = None
        """The version of the dense parameters in the model."""
        self._ahead: Pending | None = None
        """A pull of the next version, asked for early."""
        self._origin = 0
        self._join(group)

    def micro_step(
        self, data: Any, factor: float, *, last: bool, stopwatch: Stopwatch
    ) -> torch.Tensor:
        """Forward and backward; the first one of a step waits for the servers' parameters."""
        del last
        with stopwatch.phase("communication"):
            self._refresh()
        with stopwatch.phase("forward"):
            loss: torch.Tensor = self._loss_module(data)
        with stopwatch.phase("backward"):
            torch.autograd.backward(loss * factor)
        return loss.detach()

    def gradient_norm(self) -> torch.Tensor:
        """Of this rank's own part of the sum, which only servers add up."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        values = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        return gradient_norm(values, self._group.device)

    def prepare(self, loss: float) -> None:
        """Pushes the gradient; returns when primaries and backups have it.

        Raises:
            FloatingPointError: loss or gradient are not finite; nothing was pushed.
        """
        if not math.isfinite(loss) or not math.isfinite(float(self.gradient_norm())):
            raise FloatingPointError(
                f"step {self._clock}: the loss or the gradient of rank {self._group.rank} is not "
                "finite; nothing was applied"
            )
        self._answers(self._connected.push(self._clock, self._binding.gradients()))
        self._ahead = self._connected.pull(self._clock + 1, self._binding.wishes())

    def apply(self, factor: float) -> None:
        """The servers have applied the sum of what was pushed."""
        assert factor == 1.0, "servers add gradients as they are"
        self.complete(factor)

    def discard(self) -> None:
        """Drops the gradient."""
        self._loss_module.zero_grad(set_to_none=True)

    def complete(self, factor: float | None) -> None:
        """What was pushed counts; the new parameters are pulled when they are needed."""
        assert factor is not None, "what was pushed cannot be left out"
        self.discard()
        self._clock += 1
        # Else torch warns about a schedule that advances before the optimizer, which is elsewhere.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # noqa: SLF001 - see above

    def describe(self) -> LocalState:
        """What the servers do not hold: buffers, and parameters that are not trained."""
        state = self._layout().describe(self._group.rank, self._group.world_size)
        state.scalars["origin"] = self._origin
        return state

    def describe_durable(self) -> LocalState:
        """The same and, of the ranges that this rank writes, what the servers hold."""
        own = self.describe()
        ranks = self._group.world_size
        wishes = [
            {"whole": torch.empty(0)} if number % ranks == self._group.rank else {}
            for number in range(self._servers.num_servers)
        ]
        answers = self._answers(self._connected.describe(self._clock, wishes))
        theirs = combine_recordings([(answer.tensors, answer.scalars) for answer in answers])
        return LocalState(
            {**own.specs, **theirs.specs},
            [*own.pieces, *theirs.pieces],
            [*own.written, *theirs.written],
            theirs.scalars,
        )

    def install(self, source: StateSource) -> None:
        """Reads buffers and frozen parameters, from a checkpoint or from another rank."""
        whole = self._common()
        self._layout().install(Part(source, lambda name: name in whole))
        version, origin = source.scalars["version"], source.scalars.get("origin", 0)
        assert isinstance(version, int)
        assert isinstance(origin, int)
        self._clock, self._origin = version, origin
        self._installed = None

    def begin(self, version: int, source: str | None) -> None:
        """The servers take up the same version; all ranks together."""
        if self._group.rank == 0:
            self._answers(self._connected.restore(version, source or ""))
        # Until then others would get what the servers hold now.
        self._group.barrier()
        self._clock, self._origin = version, self._group.generation.order
        self._installed = None

    def lost(self) -> str | None:
        """What servers have lost of the version that this rank holds."""
        answers = self._answers(self._connected.join())
        for number, answer in enumerate(answers):
            if isinstance(answer.reply, Joined) and answer.reply.origin != self._origin:
                return f"range {number} of the parameters"
        return None

    def evaluate(self, data: Any, loss: Loss) -> torch.Tensor:
        """With the parameters of the present version."""
        self._refresh()
        result: torch.Tensor = self._loss_module(data, loss)
        return result

    def regroup(self, group: RankGroup) -> bool:
        """Speaks to the servers as another worker; what was computed is dropped."""
        self.close()
        self.discard()
        self._join(group)
        return True

    def close(self) -> None:
        """Ends the connections to the servers."""
        self._ahead = None
        if self._client is not None:
            self._link.follow(lambda _: None)
            self._client.close()
            self._client = None

    @property
    def is_replicated(self) -> bool:
        """True of all that a rank holds."""
        return True

    @property
    def _connected(self) -> Client:
        assert self._client is not None, "the rank is in no generation"
        return self._client

    def _join(self, group: RankGroup) -> None:
        self._group = group
        client = self._client = Client(
            self._servers.num_servers,
            worker=group.rank,
            incarnation=group.generation.order,
            token=os.environ[ENV_SERVER_TOKEN],
            is_synchronous=self._servers.mode.is_synchronous,
            max_frame_bytes=max_frame_bytes(self._binding.plan),
        )
        order = group.generation.order

        def hear(message: Views | Leases) -> None:
            if not isinstance(message, Views):
                return
            for number, view in enumerate(message.ranges):
                # Views of another generation would have this rank refused for good.
                if view.roster == order:
                    client.see(number, view, message.addresses)

        self._link.follow(hear)

    def _refresh(self) -> None:
        """Waits for the dense parameters of the present version, unless they are here."""
        if self._installed == self._clock:
            return
        wishes = self._binding.wishes()
        pending, self._ahead = self._ahead, None
        pending = pending or self._connected.pull(self._clock, wishes)
        answers = self._answers(pending)
        self._binding.install(wishes, [answer.tensors for answer in answers])
        self._lookups.forget()
        self._installed = self._clock

    def _fetch(self, table: str, rows: torch.Tensor) -> None:
        wishes = self._binding.wishes({table: rows}, dense=False)
        answers = self._answers(self._connected.pull(self._clock, wishes))
        self._binding.install(wishes, [answer.tensors for answer in answers])

    def _answers(self, pending: Pending) -> list[Answer]:
        """Waits as long as the generation lasts."""
        while True:
            try:
                return pending.result(_PATIENCE)
            except TimeoutError:
                self._check()

    def _common(self) -> dict[str, torch.Tensor]:
        """What all ranks hold alike, and no server."""
        frozen = {
            f"param/{name}": parameter.detach()
            for name, parameter in self.model.named_parameters()
            if not parameter.requires_grad
        }
        buffers = persistent_buffers(self.model)
        return frozen | {f"buffer/{name}": buffer for name, buffer in buffers.items()}

    def _layout(self) -> StateLayout:
        return StateLayout(self.optimizer, {}, (), replicated=True, whole=self._common())
