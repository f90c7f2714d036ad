"""What a coordinator decides by, taken from the job's settings."""

from dataclasses import dataclass, field
from datetime import timedelta

from reknit.layout import Degrees
from reknit.protocol.settings import JobSettings, OnLoss

ADOPTION_MARGIN = timedelta(seconds=3)
"""Beyond the detection timeout: for agents to find a new coordinator."""
REPLACEMENT_WAIT = timedelta(seconds=10)
"""How long a replacement is waited for before a job that may shrink goes on smaller."""
VERDICT_WAIT = timedelta(seconds=1)
"""How long other ranks may report the same exception before one is called to account."""
LOADING_SILENCE = timedelta(seconds=30)
"""A process that still loads may hold the interpreter, and with it its heartbeat, this long."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one job's membership."""

    num_workers: int
    min_workers: int
    processes_per_worker: int
    degrees: Degrees = field(default_factory=Degrees)
    may_shrink: bool = False
    is_command: bool = False
    dead_after: timedelta = timedelta(seconds=2)
    max_process_failures: int = 10
    adoption_wait: timedelta = timedelta(seconds=2) + ADOPTION_MARGIN
    replacement_wait: timedelta = REPLACEMENT_WAIT
    verdict_wait: timedelta = VERDICT_WAIT
    loading_silence: timedelta = LOADING_SILENCE

    @classmethod
    def of(cls, settings: JobSettings) -> "Policy":
        """The rules that a job's settings ask for."""
        dead_after = timedelta(seconds=settings.recovery.dead_after_seconds)
        return cls(
            num_workers=settings.num_workers,
            min_workers=settings.min_workers,
            processes_per_worker=settings.processes_per_worker,
            degrees=settings.degrees,
            may_shrink=settings.recovery.on_loss is OnLoss.SHRINK,
            is_command=settings.command is not None,
            dead_after=dead_after,
            max_process_failures=settings.max_process_failures,
            adoption_wait=dead_after + ADOPTION_MARGIN,
            loading_silence=max(dead_after, LOADING_SILENCE),
        )

    @property
    def world_size(self) -> int:
        """Ranks of the full job."""
        return self.num_workers * self.processes_per_worker

    def fits(self, num_workers: int) -> bool:
        """Whether the degrees of parallelism allow a world of so many workers."""
        try:
            self.degrees.resolve(num_workers * self.processes_per_worker)
        except ValueError:
            return False
        return True
