"""A plan on the screen."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from reknit_operator.cli.tables import Column, show_table
from reknit_operator.cli.words import count, plural, size
from reknit_operator.planning.batches import BatchArithmetic, RoundArithmetic
from reknit_operator.planning.communication import Sent
from reknit_operator.planning.memory import Memory
from reknit_operator.planning.pipeline import PipelinePlan
from reknit_operator.planning.plan import Choice, Plan
from reknit_operator.planning.servers import ServedPlan, ServerShare
from reknit_operator.planning.world import Seat

MAX_SEATS = 16
_MEMORY = (
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "temporary",
    "copies",
    "checkpoint",
)


def show_plan(console: Console, plan: Plan) -> None:
    """Prints the world, the batch, the memory and what happens when a rank is lost."""
    _heading(console, plan.name)
    for line in facts(plan):
        console.out(line, highlight=False)
    _heading(console, "World")
    titles = [Column("rank", right=True), Column("pod"), Column("slot", right=True)]
    axes = [Column(axis, right=True) for axis in ("data", "pipeline", "tensor")]
    show_table(console, [*titles, *axes], seat_rows(plan.seats))
    if not plan.choices:
        _heading(console, "When a rank is lost")
        console.out(plan.warm_start, highlight=False)
        return
    if plan.served is not None:
        _show_servers(console, plan.served)
        for line in server_notes(plan, plan.served):
            console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
        return
    if plan.pipeline is not None:
        _heading(console, "Pipeline")
        titles = [Column("stage", right=True), Column("ranks"), Column("layers")]
        rows = stage_rows(plan.pipeline)
        show_table(console, [*titles, Column("parameters", right=True)], rows)
        console.out(waiting(plan.pipeline), style="dim", highlight=False)
    _heading(console, "Memory per rank")
    columns = [Column("sharding"), *(Column(part, right=True) for part in (*_MEMORY, "total"))]
    rows = [memory_row(choice) for choice in plan.choices]
    chosen = [choice.chosen for choice in plan.choices].index(True)
    show_table(console, columns, rows, marked=chosen)
    for line in memory_notes(plan):
        console.out(line, style="dim", highlight=False)
    _heading(console, "When a rank is lost")
    columns = [Column("sharding"), Column("parameters held by"), Column("optimizer held by")]
    show_table(
        console,
        [*columns, Column("lost state comes from"), Column("may be lost at once")],
        [loss_row(choice) for choice in plan.choices],
        marked=chosen,
    )
    for line in loss_notes(plan):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _show_servers(console: Console, served: ServedPlan) -> None:
    _heading(console, "Memory per parameter server")
    columns = [Column("server"), Column("primary of range"), Column("backup of range")]
    parts = ("parameters", "optimizer", "working", "total")
    table = [*columns, *(Column(part, right=True) for part in parts)]
    show_table(console, table, [server_row(share) for share in served.servers])


def server_row(share: ServerShare) -> list[str]:
    """A server, its ranges and its bytes by part."""
    ranges = [", ".join(map(str, numbers)) for numbers in (share.primary_of, share.backup_of)]
    sizes = (share.parameters, share.optimizer, share.working, share.total)
    return [share.pod, *(text or "none" for text in ranges), *map(size, sizes)]


def server_notes(plan: Plan, served: ServedPlan) -> Iterator[str]:
    """What a worker holds, and what may be lost."""
    known = served.activation_bytes
    activations = "activations that are not known" if known is None else f"{size(known)} more"
    yield f"Each rank takes {size(served.worker_bytes)} for the model, and {activations}."
    if served.num_tables:
        yield f"Of {plural(served.num_tables, 'table')} only rows that a step needs travel."
    yield f"Servers that may be lost at once: {served.survivable}."
    yield f"If more is lost, or all ranks, state comes from {plan.last_resort}."
    yield from _cluster_note(plan)
    yield f"A lost rank's process is replaced by {plan.warm_start}."


def facts(plan: Plan) -> Iterator[str]:
    """What the job is, in sentences."""
    yield (
        f"{plural(plan.world_size, 'rank')} in {plural(plan.num_pods, 'pod')} with "
        f"{plural(plan.processes_per_pod, 'process', 'processes')} each"
    )
    if plan.num_parameters is not None:
        optimizer = (plan.optimizer or "").rpartition(".")[2]
        yield f"{count(plan.num_parameters)} trainable parameters, updated by {optimizer}"
    if plan.num_divided:
        yield f"{count(plan.num_divided)} of them are in layers that ranks divide"
    if plan.total_steps is not None:
        text = f"{plural(plan.total_steps, 'step')}"
        if plan.epochs is not None and plan.num_samples is not None:
            text += f", {plan.epochs:.2f} epochs of {plural(plan.num_samples, 'sample')}"
        yield text
    if plan.batch is not None and plan.batch.rounds is not None:
        yield _round(plan.batch.rounds)
    if plan.sent is not None:
        yield from _sent(plan.sent)
    if plan.batch is not None:
        yield _batch(plan.batch)


def _round(rounds: RoundArithmetic) -> str:
    steps = plural(rounds.local_steps, "step")
    if rounds.clients is None:
        return f"a step is a round: each rank takes {steps} alone in it"
    return (
        f"a step is a round: each of {plural(rounds.clients, 'client')} takes {steps} alone in it, "
        f"{rounds.local_steps_per_rank:.4g} per rank on average"
    )


def _batch(batch: BatchArithmetic) -> str:
    parts = (
        f"a batch of {plural(batch.global_batch, 'sample')} is "
        f"{plural(batch.num_micro_batches, 'micro-batch', 'micro-batches')} of {batch.micro}"
    )
    if batch.rounds is None:
        return f"{parts}; each rank accumulates gradients over {batch.passes_per_rank}"
    who = "rank" if batch.rounds.clients is None else "client"
    return f"{parts}; each step of a {who} takes {batch.rounds.passes_per_local_step:,} of them"


def _sent(sent: Sent) -> Iterator[str]:
    total = sent.reduced + sent.copied
    text = f"each rank sends {size(total)} per {'round' if sent.local_steps else 'step'}"
    if sent.copied:
        text += f", {size(sent.copied)} of it for recovery"
    ratio = f", {sent.plain / total:.1f} times as much" if total else ""
    yield f"{text}; plain data parallelism would send {size(sent.plain)}{ratio}"
    if sent.resets:
        yield (
            "what PowerSGD has left out on a rank is lost with that rank: training goes on from "
            "memory, but not with the same bits"
        )


def seat_rows(seats: Sequence[Seat]) -> list[list[str]]:
    """One row per rank; of a large world the first and the last ones."""
    rows = [
        [str(part) for part in (s.rank, s.pod, s.slot, s.data, s.pipeline, s.tensor)] for s in seats
    ]
    if len(rows) <= MAX_SEATS:
        return rows
    return [*rows[: MAX_SEATS - 4], ["..."] * 6, *rows[-3:]]


def stage_rows(pipeline: PipelinePlan) -> list[list[str]]:
    """One row per stage."""
    return [
        [
            str(number),
            " ".join(map(str, stage.ranks)),
            stage.first if stage.first == stage.last else f"{stage.first} to {stage.last}",
            count(stage.num_elements),
        ]
        for number, stage in enumerate(pipeline.stages)
    ]


def waiting(pipeline: PipelinePlan) -> str:
    """How much of a step the schedule costs."""
    number = plural(pipeline.num_micro_batches, "micro-batch", "micro-batches")
    return (
        f"{pipeline.schedule} with {number} in each pipeline: if all stages take as long, a rank "
        f"waits for {pipeline.bubble:.1%} of a step. The first rank keeps the activations of "
        f"{plural(pipeline.in_flight, 'pass', 'passes')} at a time."
    )


def memory_row(choice: Choice) -> list[str]:
    """A way of sharding and its bytes by part."""
    memory: Memory = choice.memory
    parts = [getattr(memory, part) for part in _MEMORY]
    name = f"{choice.sharding} (chosen)" if choice.chosen else str(choice.sharding)
    return [name, *("unknown" if p is None else size(p) for p in parts), size(memory.total)]


def memory_notes(plan: Plan) -> Iterator[str]:
    """What the memory table leaves out."""
    yield "Python and its libraries come on top, about 0.5 GiB on a CPU."
    if plan.parked_bytes is not None:
        yield (
            "Each pod also has a parked process, which will replace the next rank that is lost: "
            f"{size(plan.parked_bytes)} for the model, and Python once more."
        )
    if any(choice.memory.activations is None for choice in plan.choices):
        yield "The loss could not run without data, so its activations are not known."
    for reason in dict.fromkeys(choice.obstacle for choice in plan.choices if choice.obstacle):
        yield f"Sharding cannot be used: {reason}."


def loss_row(choice: Choice) -> list[str]:
    """A way of sharding and what survives the loss of a rank."""
    found = choice.redundancy
    return [
        str(choice.sharding),
        plural(found.parameter_copies, "rank"),
        plural(found.optimizer_copies, "rank"),
        found.source,
        found.survivable or "nothing",
    ]


def loss_notes(plan: Plan) -> Iterator[str]:
    """What the table of losses leaves out."""
    if any(choice.redundancy.survivable for choice in plan.choices):
        yield f"If more is lost at once, state comes from {plan.last_resort}."
    if plan.unfollowed is not None:
        yield (
            f"Copies cannot take the steps of {plan.unfollowed}: under ZeRO its state is sent "
            f"after each step. If a rank is lost meanwhile, state comes from {plan.last_resort}."
        )
    yield from _cluster_note(plan)
    if plan.num_pods > 1:
        yield "The table holds where each pod runs on a node of its own."
    yield f"A lost rank's process is replaced by {plan.warm_start}."


def _cluster_note(plan: Plan) -> Iterator[str]:
    if plan.only_local:
        yield (
            "In a cluster the job writes no checkpoints, as no checkpoint.volume is given: if more "
            "is lost there, training starts again."
        )


def _heading(console: Console, text: str) -> None:
    console.print()
    console.out(text, style="bold", highlight=False)
