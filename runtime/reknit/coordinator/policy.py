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
LEAVE_WAIT = timedelta(seconds=1)
"""How long other pods may be told to go, too, before the ranks are told how to leave."""
LOADING_SILENCE = timedelta(seconds=30)
"""A process that still loads may hold the interpreter, and with it its heartbeat, this long."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one job's membership."""

    num_workers: int
    min_workers: int
    processes_per_worker: int
    num_spares: int = 0
    degrees: Degrees = field(default_factory=Degrees)
    may_shrink: bool = False
    is_replicated: bool = False
    """Every rank holds the whole state."""
    copies: int = 0
    """Copies of each shard of the state on other nodes."""
    is_command: bool = False
    num_servers: int = 0
    """Parameter servers, and ranges of parameters."""
    range_copies: int = 2
    dead_after: timedelta = timedelta(seconds=2)
    max_process_failures: int = 10
    """In a row, without a new step."""
    process_failures: int = 1000
    """Within the window."""
    process_failure_window: timedelta = timedelta(hours=1)
    adoption_wait: timedelta = timedelta(seconds=2) + ADOPTION_MARGIN
    replacement_wait: timedelta = REPLACEMENT_WAIT
    verdict_wait: timedelta = VERDICT_WAIT
    leave_wait: timedelta = LEAVE_WAIT
    loading_silence: timedelta = LOADING_SILENCE
    hang_after: timedelta = timedelta(seconds=10)
    """The least time without progress in a step after which a rank counts as hung."""
    phase_limit: timedelta = timedelta(minutes=10)
    """The time without progress in anything else."""

    @classmethod
    def of(cls, settings: JobSettings) -> "Policy":
        """The rules that a job's settings ask for."""
        dead_after = timedelta(seconds=settings.recovery.dead_after_seconds)
        return cls(
            num_workers=settings.num_workers,
            min_workers=settings.min_workers,
            processes_per_worker=settings.processes_per_worker,
            num_spares=settings.num_spares,
            degrees=settings.degrees,
            may_shrink=settings.recovery.on_loss is OnLoss.SHRINK,
            is_replicated=settings.is_replicated,
            copies=settings.recovery.copies,
            is_command=settings.command is not None,
            num_servers=0 if settings.servers is None else settings.servers.num_servers,
            range_copies=2 if settings.servers is None else settings.servers.copies,
            dead_after=dead_after,
            max_process_failures=settings.max_process_failures,
            process_failures=settings.recovery.process_failures,
            process_failure_window=timedelta(
                seconds=settings.recovery.process_failure_window_seconds
            ),
            adoption_wait=dead_after + ADOPTION_MARGIN,
            loading_silence=max(dead_after, LOADING_SILENCE),
            hang_after=timedelta(seconds=settings.recovery.hang_after_seconds),
            phase_limit=timedelta(seconds=settings.recovery.phase_limit_seconds),
        )

    @property
    def world_size(self) -> int:
        """Ranks of the full job."""
        return self.num_workers * self.processes_per_worker

    def survives_without(self, num_leaving: int, *, num_agents: int, num_nodes: int) -> bool:
        """Whether the ranks of these agents may go without a checkpoint.

        Args:
            num_leaving: agents of a generation whose pods must go.
            num_agents: all of its agents.
            num_nodes: different nodes that they are on.
        """
        if self.is_command:
            return False
        if num_leaving == 0:
            return True
        if num_leaving >= num_agents:
            return False
        return self.is_replicated or (self.copies >= 1 and num_leaving == 1 and num_nodes >= 2)

    def fits(self, num_workers: int) -> bool:
        """Whether the degrees of parallelism allow a world of so many workers."""
        try:
            self.degrees.resolve(num_workers * self.processes_per_worker)
        except ValueError:
            return False
        return True
