"""In which order each rank of a pipeline computes, as a pure function.

A model is cut into stages. Rank r of P has the stages r, r + P, r + 2P and so on; but for the
interleaved schedule each rank has one. Every rank goes through its list of actions in turn and
waits where what it needs has not come yet, so the lists alone decide what happens when.

GPipe is that of Huang et al. (arXiv 1811.06965), 1F1B that of PipeDream-Flush (arXiv 2006.09503),
the interleaved one that of Megatron-LM (arXiv 2104.04473).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from reknit.layout import PipelineSchedule


class Kind(Enum):
    """What is computed."""

    FORWARD = auto()
    BACKWARD = auto()


@dataclass(frozen=True, slots=True)
class Action:
    """One micro-batch on one stage."""

    kind: Kind
    stage: int
    micro_batch: int
    """Its number among those of this pipeline's share of the global batch."""


def actions(
    schedule: PipelineSchedule, rank: int, num_ranks: int, per_rank: int, num_micro_batches: int
) -> tuple[Action, ...]:
    """What a rank does, in order.

    On each stage the backward passes come in the order of the micro-batches, so that gradients are
    added in the same order as by one process.

    Args:
        schedule: the kind of schedule.
        rank: place along the pipeline.
        num_ranks: ranks of the pipeline.
        per_rank: stages of each rank.
        num_micro_batches: of the pipeline.

    Raises:
        ValueError: the schedule cannot do it, as `obstacle` says.
    """
    reason = obstacle(schedule, num_ranks, per_rank, num_micro_batches)
    if reason is not None:
        raise ValueError(reason)
    match schedule:
        case PipelineSchedule.GPIPE:
            warm_up = num_micro_batches
        case PipelineSchedule.ONE_F_ONE_B:
            warm_up = num_ranks - rank - 1
        case PipelineSchedule.INTERLEAVED:
            warm_up = 2 * (num_ranks - rank - 1) + (per_rank - 1) * num_ranks
    forward = list(_in_turn(Kind.FORWARD, rank, num_ranks, per_rank, num_micro_batches))
    backward = list(_in_turn(Kind.BACKWARD, rank, num_ranks, per_rank, num_micro_batches))
    return tuple(_merge(forward, backward, min(warm_up, len(forward))))


def obstacle(
    schedule: PipelineSchedule, num_ranks: int, per_rank: int, num_micro_batches: int
) -> str | None:
    """Why a schedule cannot be made, as a clause; None if it can."""
    if schedule is PipelineSchedule.INTERLEAVED:
        if num_micro_batches % num_ranks:
            return (
                f"the schedule {schedule} needs a multiple of {num_ranks} micro-batches for each "
                f"pipeline, not {num_micro_batches}"
            )
    elif per_rank != 1:
        return f"the schedule {schedule} has one stage on each rank, not {per_rank}"
    return None


def bubble(
    schedule: PipelineSchedule, num_ranks: int, per_rank: int, num_micro_batches: int
) -> float:
    """The share of a step in which a rank waits, where all stages take as long: by formula."""
    del schedule  # GPipe and 1F1B only differ in memory; per_rank says how finely work is cut.
    waiting = num_ranks - 1
    return waiting / (per_rank * num_micro_batches + waiting)


def in_flight(
    schedule: PipelineSchedule, rank: int, num_ranks: int, per_rank: int, num_micro_batches: int
) -> int:
    """The most forward passes of a stage whose activations a rank holds at the same time."""
    most = held = 0
    for action in actions(schedule, rank, num_ranks, per_rank, num_micro_batches):
        held += 1 if action.kind is Kind.FORWARD else -1
        most = max(most, held)
    return most


def _in_turn(
    kind: Kind, rank: int, num_ranks: int, per_rank: int, num_micro_batches: int
) -> Iterator[Action]:
    """The passes of one kind: so many micro-batches as there are ranks on each stage in turn."""
    stages = [rank + index * num_ranks for index in range(per_rank)]
    if kind is Kind.BACKWARD:
        stages.reverse()
    for first in range(0, num_micro_batches, num_ranks):
        for stage in stages:
            for micro_batch in range(first, min(first + num_ranks, num_micro_batches)):
                yield Action(kind, stage, micro_batch)


def _merge(forward: Sequence[Action], backward: Sequence[Action], warm_up: int) -> Iterator[Action]:
    """So many forward passes, then one of each in turn, then the backward passes that are left."""
    yield from forward[:warm_up]
    for index, action in enumerate(forward[warm_up:]):
        yield action
        yield backward[index]
    yield from backward[len(forward) - warm_up :]
