"""How data-parallel ranks tell each other less than the whole gradient of each step."""

from typing import Annotated, Final

from pydantic import Field

from reknit.protocol.settings import Compression, WorkerState
from reknit_operator.api.base import Part

DEFAULT_POWER_SGD_RANK: Final = 4


class Rounds(Part):
    """A step of the job is a round: each rank takes steps of its own, then all take one together.

    The mean of what the ranks have moved is the gradient of the common step.
    """

    local_steps: Annotated[int, Field(ge=1, le=100_000)]
    """Steps that each rank takes alone in a round, with an equal part of its samples each."""
    learning_rate_percent: Annotated[int, Field(ge=1, le=1000)] = 100
    """Learning rate of the common step in hundredths; 100 without momentum takes the mean of the
    ranks' weights (local SGD), 70 with momentumPercent 90 is DiLoCo."""
    momentum_percent: Annotated[int, Field(ge=0, le=99)] = 0
    """Nesterov momentum of the common step in hundredths."""
    worker_state: WorkerState = WorkerState.KEPT
    """What each rank's optimizer remembers is Kept from round to round, and copied for recovery, or
    begun anew (Fresh)."""
    clients_per_round: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Federated averaging: so many of the clients that own the samples take part in each round,
    each for localSteps, and weigh as much as they have samples."""


class Communication(Part):
    """How data-parallel ranks tell each other less."""

    compression: Compression = Compression.NONE
    """Number format in which gradients are added up, or PowerSGD: two thin factors of each."""
    power_sgd_rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Columns of PowerSGD's factors; 4 if not given."""
    rounds: Rounds | None = None
    """Rounds with steps that each rank takes alone: local SGD, DiLoCo, federated averaging."""
