"""What to do about faults: recovery, budget, rules and checkpoints."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from reknit.protocol.outcome import ExitClass
from reknit.protocol.settings import OnBadData, OnLoss
from reknit_operator.api.base import INT_MAX, Duration, Part
from reknit_operator.api.pods import Volume

DEFAULT_CHECKPOINT_PERIOD = timedelta(minutes=10)
DEFAULT_COPIES: Final = 1
DEFAULT_KEEP: Final = 3


class RuleAction(StrEnum):
    """What a rule does about a failed pod."""

    FAIL_JOB = "FailJob"
    REPLACE_POD = "ReplacePod"


class CountsTowards(StrEnum):
    """Which figure a failure adds to; only failures have a budget."""

    FAILURES = "Failures"
    PREEMPTIONS = "Preemptions"


class Rule(Part):
    """What to do about failed pods of one kind; the first rule that matches decides.

    With both exit codes and a reason, a failure has to match both.
    """

    on_exit_codes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(max_length=255)
    ] = ()
    """Exit statuses of the training container that this rule is about."""
    on_reason: (
        Literal[
            ExitClass.PROGRAM_ERROR,
            ExitClass.CONFIGURATION,
            ExitClass.OUT_OF_MEMORY,
            ExitClass.PREEMPTED,
            ExitClass.KILLED,
            ExitClass.WRONG_NUMBERS,
            ExitClass.INFRASTRUCTURE,
        ]
        | None
    ) = None
    """The class of failure that this rule is about."""
    action: RuleAction
    """FailJob ends the job at once; ReplacePod starts a new pod in the place of the failed one."""
    counts_towards: CountsTowards = CountsTowards.FAILURES
    """Failures use up the budget; Preemptions are only counted."""


class Budget(Part):
    """How many failures a job may have before it is given up."""

    failures: Annotated[int, Field(ge=0, le=1000)] = 10
    """Failures within the window that the job survives."""
    per: Duration = timedelta(hours=1)
    """Length of the window that slides over the failures."""


class ProcessBudget(Part):
    """How often processes of ranks may fail and be replaced where they were."""

    failures: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """Failures within the window that the job survives; ten in a row without a step are too many
    in any case."""
    per: Duration = timedelta(hours=1)
    """Length of the window that slides over the failures."""


class WrongNumbers(Part):
    """Which numbers count as wrong before an update is applied, and what follows from them.

    A loss or gradient that is not finite always does. The step is computed again, and once more on
    other ranks, to tell whether a rank or the data are at fault; a rank is replaced.
    """

    outlier_factor: Annotated[int, Field(ge=2, le=INT_MAX)] | None = None
    """A gradient norm so many times the largest of the latest 64 steps is wrong too."""
    on_bad_data: OnBadData = OnBadData.HALT
    """When samples give wrong numbers on any rank: Halt the job, or Skip the update."""


class Recovery(Part):
    """What to do when ranks are lost."""

    copies: Annotated[int, Field(ge=0, le=2)] = DEFAULT_COPIES
    """Copies in neighbours' memory of each shard that no other rank holds; without sharding every
    rank holds everything, and none are made."""
    on_loss: OnLoss = OnLoss.WAIT
    """Without a replacement: Wait for one, or Shrink to the ranks that are left."""
    wrong_numbers: WrongNumbers = WrongNumbers()
    """What to do about losses and gradients that cannot be right."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=20)] = ()
    """What to do about certain failures instead of what their class asks for."""
    budget: Budget = Budget()
    """How many failures of pods a job may have before it is given up."""
    process_budget: ProcessBudget = ProcessBudget()
    """How many failures of processes, which are recovered in place, it may have."""


class Checkpoint(Part):
    """Where checkpoints go and when they are written.

    Without `every` and `every_steps` one is written every 10 minutes; with `every_steps` alone the
    clock plays no part.
    """

    volume: Volume | None = None
    """A volume that all workers share and that outlasts them."""
    every: Duration | None = None
    """Time between checkpoints; 10m if everySteps is not given either."""
    every_steps: Annotated[int, Field(ge=1, le=INT_MAX)] | None = None
    """Committed steps between checkpoints."""
    keep: Annotated[int, Field(ge=1, le=1000)] = DEFAULT_KEEP
    """Newest checkpoints that are kept."""

    @model_validator(mode="after")
    def _default_period(self) -> "Checkpoint":
        if self.every is None and self.every_steps is None:
            object.__setattr__(self, "every", DEFAULT_CHECKPOINT_PERIOD)
        return self
