"""Training with shadows, and generations that are broken off: what ranks do in the tests."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from engine_cases import Case, Shard, State, _copy, assemble, drawn, join, recipe
from engine_models import TASKS

from reknit.comm.group import RankGroup
from reknit.data.loader import StepLoader
from reknit.data.order import DataOrder
from reknit.layout import Degrees
from reknit.state.description import LocalState
from reknit.state.protection import CHECK_STEPS, Protection
from reknit.strategies import deepspeed_engine, fully_sharded, zero
from reknit.strategies.base import Sharded, Strategy
from reknit.strategies.choose import make_strategy
from reknit.strategies.fully_sharded import FullySharded
from reknit.strategies.zero import ZeRO
from reknit.trainer.gate import Vote
from reknit.trainer.protection import NoProtection
from reknit.trainer.step import Stepper
from reknit.trainer.timing import Stopwatch


class BrokenOffError(Exception):
    """The generation has ended."""


@dataclass
class Outcome:
    """What one rank holds in the end."""

    own: Shard | None = None
    """What it would write."""
    shard: Shard | None = None
    """What it holds of what is divided among the ranks."""
    shadows: dict[int, Shard] = field(default_factory=dict)
    differing: tuple[int, ...] = ()
    still_differing: tuple[int, ...] = ()
    """After those that differed were made anew."""
    losses: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    num_hooks: int = 0


class Trainer:
    """One rank's strategy with its steps."""

    def __init__(self, group: RankGroup, case: Case) -> None:
        self.case = case
        self.group = group
        self.strategy = make_strategy(recipe(case), case.settings, group, case.plan)
        self.stepper = Stepper(
            self.strategy,
            recipe(case),
            group,
            case.plan,
            seed=0,
            precision=case.precision,
            policy=case.policy,
        )
        self.losses: list[float] = []
        self.skipped: list[bool] = []

    def protect(self, copies: int = 1, *, follow: bool = True) -> Protection:
        """Every rank keeps copies of the shards of the ranks before it."""
        assert isinstance(self.strategy, Sharded)
        assert self.strategy.is_shadowable
        self.strategy.is_shadowable = follow
        rank, num_ranks = self.group.rank, self.group.world_size
        protection = Protection(
            self.group,
            self.strategy,
            holders=[(rank + distance) % num_ranks for distance in range(1, copies + 1)],
            wards=[(rank - distance) % num_ranks for distance in range(1, copies + 1)],
        )
        protection.fill()
        self.stepper.protection = protection
        return protection

    def train(self, stop: int) -> None:
        """Up to version `stop`."""
        data = TASKS[self.case.model].data()
        loader = StepLoader(
            data,
            order=DataOrder(len(data), 0),
            plan=self.case.plan,
            rank=self.group.place.data,
            seed=0,
            start_step=self.stepper.version,
            stop_step=stop,
        )
        with loader:
            for batch in loader:
                result = self.stepper.step(partial(drawn, batch), Vote, Stopwatch())
                self.losses.append(result.loss)
                self.skipped.append(result.skipped)

    def copy(self) -> Shard:
        return _copy(self.stepper.describe({}))

    def whole(self) -> State:
        """The present version, from all ranks."""
        shards: list[Any] = [None] * self.group.world_size
        dist.all_gather_object(shards, self.copy())
        return assemble(shards)

    def leave(self) -> None:
        self.strategy.close()
        self.group = regroup(self.group, self.case.degrees)

    def rejoin(self, state: State) -> None:
        """Goes on in another generation, from `state` where the strategy does not keep its own."""
        self.leave()
        self.stepper.drop_attempt()
        if not self.strategy.regroup(self.group):
            self.strategy = self.successor()
            self.strategy.install(state)
        self.stepper.regroup(self.strategy, self.group, self.case.plan, NoProtection())

    def successor(self) -> Strategy:
        assert isinstance(self.strategy, Sharded)
        case = self.case
        parts = self.strategy.parts()
        return make_strategy(
            recipe(case), case.settings, self.group, case.plan, built=parts, installs=True
        )


def regroup(group: RankGroup, degrees: Degrees) -> RankGroup:
    """The same ranks in another process group, with sockets of its own."""
    listener = None
    if group.rank == 0:
        listener = socket.create_server(("127.0.0.1", 0))
    port = group.share_text("next", str(listener.getsockname()[1]) if listener else None)
    group.close()
    return join(group.rank, group.world_size, int(port), listener, degrees)


def shadowed(
    group: RankGroup,
    case: Case,
    copies: int = 1,
    start: int = 0,
    follow: bool = True,
    flip: int | None = None,
) -> Outcome:
    """Trains with shadows from version `start` on; `flip` is the rank whose first shadow errs."""
    trainer = Trainer(group, case)
    trainer.train(start)
    protection = trainer.protect(copies, follow=follow)
    trainer.train(case.steps)
    held = protection.held()
    if flip == group.rank:
        bits = held[f"copy-of-{(flip - 1) % group.world_size}"].pieces[0].data.view(torch.int32)
        bits[len(bits) // 2] ^= 1
    assert protection.check(CHECK_STEPS + 1) == ()
    outcome = Outcome(
        shard=shard_of(trainer.strategy.describe()),
        differing=protection.check(CHECK_STEPS),
        still_differing=protection.verify(),
        shadows=_shadows(protection.held()),
        losses=trainer.losses,
        skipped=trainer.skipped,
    )
    trainer.strategy.close()
    return outcome


def _shadows(held: dict[str, LocalState]) -> dict[int, Shard]:
    return {int(key.removeprefix("copy-of-")): shard_of(state) for key, state in held.items()}


def shard_of(state: LocalState) -> Shard:
    """A copy of what is divided among the ranks."""
    pieces = [
        (p.name, p.interval.start, p.data.clone()) for p in state.pieces if "buffer/" not in p.name
    ]
    return Shard(dict(state.specs), pieces, dict(state.scalars))


def differences(one: Shard, other: Shard) -> list[str]:
    """Names of pieces whose bits differ; they must have the same places."""
    assert [piece[:2] for piece in one.pieces] == [piece[:2] for piece in other.pieces]
    assert one.scalars["optimizer"] == other.scalars["optimizer"]
    pairs = zip(one.pieces, other.pieces, strict=True)
    return [name for (name, _, left), (_, _, right) in pairs if not same_bits(left, right)]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Also where there is no number."""
    assert one.dtype == other.dtype
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def completed(group: RankGroup, case: Case, how: str, follow: bool = True) -> Outcome:
    """The generation ends in the last step, after its gate; each rank completes it alone."""
    trainer = Trainer(group, case)
    protection = None if trainer.strategy.is_replicated else trainer.protect(follow=follow)
    trainer.train(case.steps - 1)
    stepper = trainer.stepper
    where, name = {
        "before any update": (stepper, "_commit"),
        "between the copies and the original": (stepper, "_update"),
        "in the gather": (zero, "refresh"),
    }[how]
    with failing(where, name), suppress(BrokenOffError):
        trainer.train(case.steps)
        assert trainer.strategy.is_replicated or how == "in the gather", "it was not broken off"
    # No rank can be reached, and the engine is gone.
    trainer.strategy.close()
    group.close()
    if stepper.version < case.steps:
        stepper.complete(stepper.attempt.votes)
    outcome = Outcome(shard=shard_of(trainer.strategy.describe()))
    if protection is not None:
        outcome.shadows = _shadows(protection.held())
    return outcome


@contextmanager
def failing(where: object, name: str) -> Iterator[None]:
    """A function raises as if a connection were lost."""

    def fail(*_arguments: object, **_named: object) -> None:
        raise BrokenOffError

    original = getattr(where, name)
    setattr(where, name, fail)
    try:
        yield
    finally:
        setattr(where, name, original)


def rejoined(group: RankGroup, case: Case, breaks: tuple[str, ...]) -> Outcome:
    """Generations that are broken off in several ways; training goes on from before."""
    trainer = Trainer(group, case)
    for number, how in enumerate(breaks):
        trainer.train(2 + 2 * number)
        before = trainer.whole()
        _BREAKS[how](trainer)
        trainer.rejoin(before)
    trainer.train(case.steps)
    outcome = Outcome(own=trainer.copy(), losses=trainer.losses)
    outcome.num_hooks = num_hooks(trainer.strategy)
    trainer.strategy.close()
    return outcome


def num_hooks(strategy: Strategy) -> int:
    """On all modules and parameters of the user's model."""
    modules = sum(
        len(value)
        for module in strategy.model.modules()
        for name, value in vars(module).items()
        if name.endswith("hooks")
    )
    return modules + sum(
        len(parameter._post_accumulate_grad_hooks or ())
        for parameter in strategy.model.parameters()
    )


def _break_backward(trainer: Trainer) -> None:
    """In the last one of a step, after the gradients of some parameters, on every rank alike."""
    parameters = [p for p in trainer.strategy.model.parameters() if p.requires_grad]
    if isinstance(trainer.strategy, FullySharded):
        parameters = [part.unsharded_param for part in trainer.strategy._parts]
    passes_before = trainer.case.plan.num_steps - 1
    allowed = passes_before * len(parameters) + len(parameters) // 2
    count = 0

    def fail(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        if count > allowed:
            raise BrokenOffError
        return gradient

    handles = [parameter.register_hook(fail) for parameter in parameters]
    _expect_broken(trainer)
    for handle in handles:
        handle.remove()


def _break_gather(trainer: Trainer) -> None:
    """In the second half of an update, after the masters have been changed."""
    if not isinstance(trainer.strategy, ZeRO):
        return
    with failing(zero, "refresh"):
        _expect_broken(trainer)


def _break_rejoin(trainer: Trainer) -> None:
    """While the next generation's engine is made, and again when it has been made."""
    if trainer.strategy.is_replicated:
        return
    trainer.leave()
    is_deepspeed = isinstance(trainer.strategy, ZeRO)
    engine, part = deepspeed_engine._Engine, "_configure_lr_scheduler"
    with failing(engine, part) if is_deepspeed else failing(fully_sharded, "_merge"):
        try:
            trainer.successor()
        except BrokenOffError:
            trainer.leave()
        else:
            raise AssertionError("the engine was made")
    trainer.successor().close()


def _expect_broken(trainer: Trainer) -> None:
    version = trainer.stepper.version
    with suppress(BrokenOffError):
        trainer.train(version + 1)
        raise AssertionError("the step was not broken off")
    assert trainer.stepper.version == version


_BREAKS = {"backward": _break_backward, "gather": _break_gather, "rejoin": _break_rejoin}
