"""Small models and the two ways to train them: by Reknit's steps, and by plain torch."""

import math
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from engine_models import TASKS
from torch import nn

from reknit.comm.group import RankGroup
from reknit.data.loader import StepBatch, StepLoader
from reknit.data.order import DataOrder
from reknit.data.seeds import micro_batch_seed
from reknit.errors import ConfigurationError
from reknit.layout import BatchPlan, Degrees, Precision, Sharding
from reknit.mesh import Mesh
from reknit.protocol.base import Endpoint, Generation, Json
from reknit.protocol.ranks import Assign
from reknit.protocol.settings import CommunicationSettings, JobSettings, PipelineSettings
from reknit.state.description import Interval, LocalState, TensorSpec
from reknit.strategies.base import Recipe
from reknit.strategies.choose import make_strategy
from reknit.strategies.scaling import ScalePolicy
from reknit.trainer.gate import Vote
from reknit.trainer.step import Stepper
from reknit.trainer.timing import Stopwatch


@dataclass(frozen=True)
class Case:
    """One training run."""

    model: str = "transformer"
    sharding: Sharding = Sharding.NONE
    pipeline: PipelineSettings = PipelineSettings()  # noqa: RUF009 - immutable
    precision: Precision = Precision.FP32
    num_ranks: int = 2
    degrees: Degrees = Degrees()  # noqa: RUF009 - immutable
    accumulation: int = 1
    """Micro-batches per rank."""
    global_batch: int = 16
    micro: int | None = None
    """Instead of `accumulation`."""
    steps: int = 50
    clip: float | None = None
    schedule: bool = False
    optimizer: str = "AdamW"
    learning_rate: float = 2e-3
    policy: ScalePolicy = field(
        default_factory=lambda: ScalePolicy(initial=2.0**24, growth_interval=6)
    )
    """Under FP16 the first steps overflow, and later ones whenever the scale has grown."""
    threshold: int | None = 0
    """ZeRO 3 keeps smaller parameters on every rank; 0 divides all of them."""

    deepspeed: tuple[tuple[str, Json], ...] = ()
    """Items of the user's DeepSpeed configuration."""

    communication: CommunicationSettings = field(default_factory=CommunicationSettings)

    @property
    def plan(self) -> BatchPlan:
        num_data = Mesh.of(self.degrees, self.num_ranks).num_data
        micro = self.micro or self.global_batch // (num_data * self.accumulation)
        return BatchPlan(self.global_batch, micro, num_data)

    @property
    def settings(self) -> JobSettings:
        config: dict[str, Json] = dict(self.deepspeed)
        if self.sharding is Sharding.ZERO3 and self.threshold is not None:
            config["zero_optimization"] = {"stage3_param_persistence_threshold": self.threshold}
        return JobSettings(
            name="case",
            degrees=self.degrees,
            sharding=self.sharding,
            pipeline=self.pipeline,
            precision=self.precision,
            deepspeed_config=config,
            communication=self.communication,
        )


@dataclass
class State:
    """A whole state in memory; also where a run starts from."""

    specs: dict[str, TensorSpec]
    tensors: dict[str, torch.Tensor]
    scalars: dict[str, Json]
    times_written: dict[str, int] = field(default_factory=dict)

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        return self.tensors[name].view(-1)[interval.start : interval.stop].clone()


@dataclass
class Run:
    """What came out of one rank."""

    losses: list[float]
    norms: list[float]
    skipped: list[bool]
    scales: list[float | None]
    state: "Shard | None" = None


@dataclass
class Shard:
    """A copy of what one rank would write."""

    specs: dict[str, TensorSpec]
    pieces: list[tuple[str, int, torch.Tensor]]
    scalars: dict[str, Json]


def recipe(case: Case) -> Recipe:
    task = TASKS[case.model]

    def optimizer(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups: list[object] = list(params)
        if task.groups:
            half = 0 if case.model == "empty group" else len(params) // 2
            groups = [
                {"params": params[:half], "lr": case.learning_rate},
                {"params": params[half:], "lr": case.learning_rate / 4, "weight_decay": 0.0},
            ]
        arguments = {"momentum": 0.9} if case.optimizer == "SGD" else {}
        kind = getattr(torch.optim, case.optimizer)
        return kind(groups, lr=case.learning_rate, **arguments)

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=200)

    return Recipe(
        model=task.model,
        optimizer=optimizer,
        loss=task.loss,
        schedule=schedule if case.schedule else None,
        clip_grad_norm=case.clip,
        tensor_plan=task.plan,
    )


def join(
    rank: int,
    num_ranks: int,
    port: int,
    listener: socket.socket | None,
    degrees: Degrees | None = None,
) -> RankGroup:
    """A process group of this test's workers."""
    assign = Assign(
        generation=Generation(incarnation=1, counter=port),
        rank=rank,
        world_size=num_ranks,
        local_rank=rank,
        local_world_size=num_ranks,
        group_rank=0,
        store=Endpoint(host="127.0.0.1", port=port),
    )
    return RankGroup(assign, device=torch.device("cpu"), degrees=degrees, store_listener=listener)


def train(group: RankGroup, case: Case, start: State | None = None) -> Run:
    """Trains from the beginning, or from `start`, up to step `case.steps`."""
    task, plan = TASKS[case.model], case.plan
    strategy = make_strategy(recipe(case), case.settings, group, plan)
    stepper = Stepper(
        strategy,
        recipe(case),
        group,
        plan,
        seed=0,
        precision=case.precision,
        policy=case.policy,
    )
    if start is not None:
        stepper.install(start)
    data = task.data()
    loader = StepLoader(
        data,
        order=DataOrder(len(data), 0),
        plan=plan,
        rank=group.place.data,
        seed=0,
        start_step=stepper.version,
        stop_step=case.steps,
    )
    run = Run([], [], [], [])
    with loader:
        for batch in loader:
            result = stepper.step(partial(drawn, batch), Vote, Stopwatch())
            run.losses.append(result.loss)
            run.norms.append(result.grad_norm)
            run.skipped.append(result.skipped)
            run.scales.append(result.loss_scale)
    run.state = _copy(stepper.describe({"note": "kept"}))
    strategy.close()
    return run


def refusal(group: RankGroup, case: Case) -> str:
    """The sentence with which the strategy refuses to be made, or to take steps."""
    try:
        train(group, case)
    except ConfigurationError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def drawn(batch: StepBatch, rotation: int) -> StepBatch:
    """What a step draws: no other rank's micro-batches."""
    assert rotation == 0
    return batch


def _copy(state: LocalState) -> Shard:
    pieces = [(piece.name, piece.interval.start, piece.data.clone()) for piece in state.written]
    return Shard(dict(state.specs), pieces, dict(state.scalars))


def assemble(shards: list[Shard]) -> State:
    """The whole state from what the ranks would write."""
    first = shards[0]
    assert all(shard.specs == first.specs for shard in shards)
    assert all(shard.scalars == first.scalars for shard in shards)
    tensors = {
        name: torch.zeros(spec.num_elements, dtype=spec.dtype) for name, spec in first.specs.items()
    }
    counts = {name: torch.zeros_like(tensor, dtype=torch.int32) for name, tensor in tensors.items()}
    for shard in shards:
        for name, start, data in shard.pieces:
            assert data.dtype == tensors[name].dtype
            tensors[name][start : start + data.numel()] = data
            counts[name][start : start + data.numel()] += 1
    assert all(bool((count == 1).all()) for count in counts.values()), "not exactly once"
    return State(first.specs, tensors, first.scalars)


def plain(case: Case) -> Run:
    """The same training by one process without Reknit's step, engine or wrappers."""
    torch.manual_seed(0)
    model, made = TASKS[case.model].model(), recipe(case)
    trainable = [p for p in model.parameters() if p.requires_grad]
    masters = trainable
    dtype = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}.get(case.precision)
    half = dtype is not None and case.sharding is not Sharding.NONE
    if half:
        # What DeepSpeed does: all parameters in the lower precision, masters for the trained ones.
        masters = [nn.Parameter(p.detach().clone()) for p in trainable]
        for p in model.parameters():
            p.data = p.data.to(dtype)
    optimizer = made.optimizer(masters)
    schedule = made.schedule(optimizer) if made.schedule else None
    scaler = torch.amp.GradScaler(
        "cpu",
        init_scale=case.policy.initial,
        growth_interval=case.policy.growth_interval,
        enabled=case.precision is Precision.FP16,
    )
    run = Run([], [], [], [])
    for step in range(case.steps):
        run.scales.append(scaler.get_scale() if scaler.is_enabled() else None)
        total = 0.0
        for loss in _losses(case, model, made, step, dtype):
            scaler.scale(loss).backward()
            total += loss.item()
            if half:
                _accumulate(trainable, masters)
        if case.sharding is not Sharding.NONE or case.degrees.pipeline > 1:
            # A flat tensor is updated whole: what goes unused has a gradient of zero there.
            for master in masters:
                master.grad = torch.zeros_like(master) if master.grad is None else master.grad
        scaler.unscale_(optimizer)
        limit = torch.inf if case.clip is None else case.clip
        norm = float(nn.utils.clip_grad_norm_(masters, limit))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if half:
            for p, master in zip(trainable, masters, strict=True):
                p.data.copy_(master.data)
        skipped = not math.isfinite(norm)
        if schedule is not None and not skipped:
            schedule.step()
        run.losses.append(total)
        run.norms.append(math.inf if skipped else norm)
        run.skipped.append(skipped)
    return run


def _losses(
    case: Case, model: nn.Module, made: Recipe, step: int, dtype: torch.dtype | None
) -> Iterator[torch.Tensor]:
    """The weighted losses of a step: of the whole batch at once where that is the same."""
    task = TASKS[case.model]
    data = task.data()
    order = DataOrder(len(data), 0)
    micro = case.plan.micro if task.seeded or dtype is not None else case.global_batch
    for index in range(case.global_batch // micro):
        first = step * case.global_batch + index * micro
        rows = order.samples(range(first, first + micro))
        batch = [torch.stack(part) for part in zip(*(data[row] for row in rows), strict=True)]
        torch.manual_seed(micro_batch_seed(0, step, index))
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = made.loss(model, batch)
        yield loss * (micro / case.global_batch)


def _accumulate(trainable: list[nn.Parameter], masters: list[nn.Parameter]) -> None:
    for p, master in zip(trainable, masters, strict=True):
        if p.grad is not None:
            gradient = p.grad.float()
            master.grad = gradient if master.grad is None else master.grad + gradient
            p.grad = None
