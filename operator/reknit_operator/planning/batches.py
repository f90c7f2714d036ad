"""How the global batch falls on the ranks."""

from dataclasses import dataclass

from reknit.layout import BatchPlan


@dataclass(frozen=True, slots=True)
class BatchArithmetic:
    """One global batch, in samples and passes."""

    global_batch: int
    micro: int
    num_micro_batches: int
    """Over all ranks."""
    passes_per_rank: int
    """Forward and backward passes of each rank per step: gradient accumulation."""
    idle_ranks: tuple[int, ...]
    """Data-parallel ranks whose last pass has weight 0."""

    @property
    def idle_share(self) -> float:
        """Share of all passes that have weight 0."""
        passes = self.num_micro_batches + len(self.idle_ranks)
        return len(self.idle_ranks) / passes


def arithmetic(plan: BatchPlan) -> BatchArithmetic:
    """What every rank does in one step."""
    return BatchArithmetic(
        global_batch=plan.global_batch,
        micro=plan.micro,
        num_micro_batches=plan.num_micro_batches,
        passes_per_rank=plan.num_steps,
        idle_ranks=tuple(
            rank for rank in range(plan.num_ranks) if None in plan.micro_batches(rank)
        ),
    )
