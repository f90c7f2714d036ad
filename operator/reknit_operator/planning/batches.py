"""How the global batch falls on the ranks."""

from dataclasses import dataclass

from reknit.layout import BatchPlan
from reknit.protocol.settings import RoundSettings


@dataclass(frozen=True, slots=True)
class RoundArithmetic:
    """A global batch that is a round: who takes how many steps alone in it."""

    local_steps: int
    """Of each rank or client."""
    passes_per_local_step: int
    """Micro-batches whose gradients are accumulated in each of them."""
    clients: int | None
    """Clients that take part, at home on the ranks; None where each rank takes steps for itself."""
    local_steps_per_rank: float
    """With clients the mean over the ranks."""


@dataclass(frozen=True, slots=True)
class BatchArithmetic:
    """One global batch, in samples and passes."""

    global_batch: int
    micro: int
    num_micro_batches: int
    """Over all ranks."""
    passes_per_rank: int
    """Forward and backward passes of each rank per step: gradient accumulation, or a round's local
    steps; with clients the mean over the ranks, rounded up."""
    idle_ranks: tuple[int, ...]
    """Data-parallel ranks whose last pass has weight 0; with clients they change from round to
    round, and none are named."""
    rounds: RoundArithmetic | None = None

    @property
    def idle_share(self) -> float:
        """Share of all passes that have weight 0."""
        passes = self.num_micro_batches + len(self.idle_ranks)
        return len(self.idle_ranks) / passes


def arithmetic(plan: BatchPlan, rounds: RoundSettings | None = None) -> BatchArithmetic:
    """What every rank does in one step, which may be a round."""
    has_clients = rounds is not None and rounds.clients_per_round is not None
    return BatchArithmetic(
        global_batch=plan.global_batch,
        micro=plan.micro,
        num_micro_batches=plan.num_micro_batches,
        passes_per_rank=plan.num_steps,
        idle_ranks=()
        if has_clients
        else tuple(rank for rank in range(plan.num_ranks) if None in plan.micro_batches(rank)),
        rounds=None if rounds is None else _round(plan, rounds),
    )


def _round(plan: BatchPlan, rounds: RoundSettings) -> RoundArithmetic:
    num_local_steps = (rounds.clients_per_round or plan.num_ranks) * rounds.local_steps
    return RoundArithmetic(
        local_steps=rounds.local_steps,
        passes_per_local_step=plan.num_micro_batches // num_local_steps,
        clients=rounds.clients_per_round,
        local_steps_per_rank=num_local_steps / plan.num_ranks,
    )
