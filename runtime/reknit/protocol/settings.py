"""What a job's pods need to know of its manifest, resolved and handed over in one variable."""

from enum import StrEnum
from typing import Final

from pydantic import Field

from reknit.layout import Degrees, PipelineSchedule, Precision, Sharding
from reknit.parameter_server.formats import Compression as PushCompression
from reknit.parameter_server.table import Consistency, Mode
from reknit.protocol.base import Json, Message

ENV_JOB: Final = "REKNIT_JOB"
"""JSON of `JobSettings`."""
ENV_TOKEN: Final = "REKNIT_TOKEN"  # noqa: S105 - the name of a variable, no secret
"""The job's secret token; agents send it as a bearer token."""
ENV_SERVER_TOKEN: Final = "REKNIT_SERVER_TOKEN"  # noqa: S105 - the name of a variable, no secret
"""What workers and parameter servers show to each other; made from the token, not the reverse."""
ENV_INCARNATION: Final = "REKNIT_INCARNATION"
"""The coordinator's incarnation."""
ENV_COORDINATOR: Final = "REKNIT_COORDINATOR"
"""host:port of the coordinator."""
COORDINATOR_PORT: Final = 7070
"""Where a coordinator listens."""
ENV_POD_NAME: Final = "REKNIT_POD_NAME"
ENV_POD_IP: Final = "REKNIT_POD_IP"
ENV_NODE_NAME: Final = "REKNIT_NODE_NAME"
ENV_ROLE: Final = "REKNIT_ROLE"
"""worker, spare, server or coordinator."""
ENV_REPLICA: Final = "REKNIT_REPLICA"
"""Index of the pod within its role; a replacement keeps it."""
ENV_TERMINATION_LOG: Final = "REKNIT_TERMINATION_LOG"
"""Where process 1 writes its `Conclusion`; /dev/termination-log unless set."""
ENV_NURSERY: Final = "REKNIT_NURSERY"
"""Socket of the nursery of this machine, from which an agent takes its forkserver."""
ENV_LEDGER: Final = "REKNIT_LEDGER"
"""A folder for the ledger of sample ids; unset: none is written."""
ENV_BOARD: Final = "REKNIT_BOARD"
"""A folder in which each rank shows what it is doing at this moment; unset: none is shown."""
ENV_HASHES: Final = "REKNIT_HASHES"
"""A folder for the hashes of the weights of each version; unset: none are made."""


class Framework(StrEnum):
    """Which rendezvous environment a command finds."""

    PYTORCH = "PyTorch"
    TENSORFLOW = "TensorFlow"
    HOROVOD = "Horovod"
    MXNET = "MXNet"
    JAX = "JAX"


class OnLoss(StrEnum):
    """What to do when a lost rank has no replacement."""

    WAIT = "Wait"
    SHRINK = "Shrink"


class BatchSettings(Message):
    """Samples per optimizer step, and per forward pass of one rank."""

    global_batch: int
    micro: int


class CheckpointSettings(Message):
    """Where checkpoints go and when; None for a period turns that trigger off."""

    path: str
    every_seconds: float | None = 600.0
    every_steps: int | None = None
    keep: int = 3


class OnBadData(StrEnum):
    """What to do when the samples of a step give wrong numbers on any rank."""

    HALT = "Halt"
    SKIP = "Skip"


class NumberSettings(Message):
    """Which numbers are wrong, and what follows from them."""

    outlier_factor: float | None = None
    """A gradient norm so many times the largest of the latest steps is wrong; None: none is."""
    on_bad_data: OnBadData = OnBadData.HALT


class PipelineSettings(Message):
    """How a model is cut into stages, and in which order these compute."""

    schedule: PipelineSchedule = PipelineSchedule.ONE_F_ONE_B
    stages_per_rank: int = 1
    cut: tuple[str, ...] = ()
    """Names of the layers at which the second stage and the following ones begin; empty: cut so
    that parameters are spread evenly."""


class ServerSettings(Message):
    """How parameters are kept by servers."""

    num_servers: int
    """As many as there are ranges."""
    copies: int = 2
    """Of each range: 1 or 2."""
    mode: Mode = Mode(Consistency.SYNCHRONOUS)
    compression: PushCompression = PushCompression.NONE
    """Of gradients on their way."""


class RecoverySettings(Message):
    """How faults are found and repaired."""

    copies: int = 1
    """Of each shard that no other rank holds."""
    on_loss: OnLoss = OnLoss.WAIT
    heartbeat_seconds: float = 0.2
    dead_after_seconds: float = 2.0
    grace_seconds: float = 30.0
    hang_after_seconds: float = 10.0
    """No rank is called hung sooner; later, if the job's own steps take longer than a tenth."""
    process_failures: int = 1000
    """Failures of processes within the window that are recovered in place."""
    process_failure_window_seconds: float = 3600.0
    phase_limit_seconds: float = 600.0
    """The same for whatever is not a step: start, loading, evaluation, checkpoint, closing."""


class Compression(StrEnum):
    """What becomes of gradients before data-parallel ranks add them up."""

    NONE = "None"
    FP16 = "FP16"
    BF16 = "BF16"
    POWER_SGD = "PowerSGD"


class WorkerState(StrEnum):
    """What a worker's optimizer remembers at the end of a round."""

    KEPT = "Kept"
    FRESH = "Fresh"


class RoundSettings(Message):
    """Rounds in which each worker takes steps alone, before all take one together."""

    local_steps: int
    """Of each worker in a round."""
    outer_learning_rate: float = 1.0
    """1 without momentum takes the mean of the workers' weights."""
    outer_momentum: float = 0.0
    """Nesterov's."""
    worker_state: WorkerState = WorkerState.KEPT
    clients_per_round: int | None = None
    """Owners of samples that take part, each on its rank; None: every rank does, with any samples.
    """


class CommunicationSettings(Message):
    """How data-parallel ranks tell each other less."""

    compression: Compression = Compression.NONE
    power_sgd_rank: int = 4
    """Columns of the factors that stand for a gradient under PowerSGD."""
    rounds: RoundSettings | None = None
    """None: all ranks take each step together."""

    @property
    def divides_state(self) -> bool:
        """Whether training cannot go on without state that one rank alone has."""
        return self.rounds is not None and self.rounds.worker_state is WorkerState.KEPT


class JobSettings(Message):
    """One job, as its coordinator, agents and ranks see it."""

    name: str
    namespace: str = "default"
    uid: str = ""
    function: str | None = None
    """`module:function`, called as function(job, config)."""
    command: tuple[str, ...] | None = None
    config: dict[str, Json] = Field(default_factory=dict)
    framework: Framework = Framework.PYTORCH
    degrees: Degrees = Degrees()
    sharding: Sharding = Sharding.NONE
    pipeline: PipelineSettings = PipelineSettings()
    batch: BatchSettings | None = None
    """None only for commands."""
    precision: Precision = Precision.FP32
    seed: int = 0
    num_workers: int = 1
    min_workers: int = 1
    processes_per_worker: int = 1
    num_spares: int = 0
    deepspeed_config: dict[str, Json] = Field(default_factory=dict)
    communication: CommunicationSettings = CommunicationSettings()
    recovery: RecoverySettings = RecoverySettings()
    numbers: NumberSettings = NumberSettings()
    checkpoint: CheckpointSettings | None = None
    servers: ServerSettings | None = None
    """None: the ranks hold the parameters themselves."""
    max_process_failures: int = 10
    """In-place recoveries without a committed step in between before the job is given up."""

    @property
    def is_replicated(self) -> bool:
        """Whether every rank holds the whole state."""
        is_cut = self.degrees.pipeline > 1 or self.degrees.tensor > 1
        return self.state_sharding is Sharding.NONE and not is_cut

    @property
    def state_sharding(self) -> Sharding:
        """The sharding under which as much of the state is on one rank alone.

        Workers of rounds that remember something are like ranks that divide the optimizer's state.
        """
        if self.sharding is Sharding.NONE and self.communication.divides_state:
            return Sharding.ZERO1
        return self.sharding

    @property
    def world_size(self) -> int:
        """Ranks of the full job."""
        return self.num_workers * self.processes_per_worker
