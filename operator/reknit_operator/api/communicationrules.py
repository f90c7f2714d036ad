"""What communication can be combined with."""

from typing import Final

from reknit.layout import Precision, Sharding
from reknit.protocol.settings import Compression, OnLoss, WorkerState
from reknit_operator.api.communication import Communication
from reknit_operator.api.rules import Rule
from reknit_operator.api.spec import JobSpec

_HAS_ROUNDS: Final = "has(self.communication.rounds)"
_LESS: Final = f"(self.communication.compression != 'None' || {_HAS_ROUNDS})"
_DEPENDS_ON_RANKS: Final = f"({_HAS_ROUNDS} || self.communication.compression == 'PowerSGD')"
_SHARE: Final = (
    "self.batch.micro * self.communication.rounds.localSteps "
    "* (has(self.communication.rounds.clientsPerRound) "
    "? self.communication.rounds.clientsPerRound "
    ": self.workers.replicas * self.workers.processesPerReplica)"
)


def _says_less(spec: JobSpec) -> bool:
    return spec.communication != Communication()


def _is_whole(spec: JobSpec) -> bool:
    parallelism = spec.parallelism
    return (
        parallelism.sharding is Sharding.NONE
        and parallelism.pipeline.stages == 1
        and parallelism.tensor == 1
    )


def _share(spec: JobSpec) -> int:
    """The fewest samples of a round: one micro-batch for each local step of each who takes part."""
    rounds, batch = spec.communication.rounds, spec.batch
    assert rounds is not None
    assert batch is not None
    return batch.micro * rounds.local_steps * (rounds.clients_per_round or spec.workers.world_size)


def _fits_rounds(spec: JobSpec) -> bool:
    if spec.communication.rounds is None or spec.batch is None:
        return True
    return spec.batch.global_batch % _share(spec) == 0


def _depends_on_ranks(communication: Communication) -> bool:
    return communication.rounds is not None or communication.compression is Compression.POWER_SGD


COMMUNICATION_RULES: Final = (
    Rule(
        scope="spec.communication.rounds",
        field="workerState",
        sentence="nothing is remembered of a client's optimizer, set workerState to Fresh or "
        "remove clientsPerRound",
        holds=lambda rounds: (
            rounds.clients_per_round is None or rounds.worker_state is WorkerState.FRESH
        ),
        cel="!has(self.clientsPerRound) || self.workerState == 'Fresh'",
    ),
    Rule(
        scope="spec",
        field="communication",
        sentence="a command communicates by itself, remove communication or give a function",
        holds=lambda spec: spec.entrypoint.function is not None or not _says_less(spec),
        cel="has(self.entrypoint.__function__) || (self.communication.compression == 'None' "
        f"&& !has(self.communication.powerSgdRank) && !{_HAS_ROUNDS})",
    ),
    Rule(
        scope="spec",
        field="communication",
        sentence="compression and rounds need ranks that each hold the whole model, set "
        "parallelism.sharding to None and stages and tensor to 1, or remove communication",
        holds=lambda spec: not _says_less(spec) or _is_whole(spec),
        cel=f"!{_LESS} || (self.parallelism.sharding == 'None' "
        "&& self.parallelism.pipeline.stages == 1 && self.parallelism.tensor == 1)",
    ),
    Rule(
        scope="spec.communication",
        field="powerSgdRank",
        sentence="only PowerSGD has a rank, set compression to PowerSGD or remove powerSgdRank",
        holds=lambda part: part.power_sgd_rank is None or part.compression is Compression.POWER_SGD,
        cel="!has(self.powerSgdRank) || self.compression == 'PowerSGD'",
    ),
    Rule(
        scope="spec.communication",
        field="compression",
        sentence="PowerSGD compresses the gradients of single steps, which rounds do not add up, "
        "take FP16 or BF16 or remove rounds",
        holds=lambda part: part.rounds is None or part.compression is not Compression.POWER_SGD,
        cel="!has(self.rounds) || self.compression != 'PowerSGD'",
    ),
    Rule(
        scope="spec",
        field="precision",
        sentence="the loss scale of FP16 does not go with rounds or PowerSGD, set precision to "
        "BF16 or FP32",
        holds=lambda spec: (
            spec.precision is not Precision.FP16 or not _depends_on_ranks(spec.communication)
        ),
        cel=f"self.precision != 'FP16' || !{_DEPENDS_ON_RANKS}",
    ),
    Rule(
        scope="spec",
        field="recovery.onLoss",
        sentence="the number of ranks is part of what rounds and PowerSGD compute, set onLoss to "
        "Wait or change communication",
        holds=lambda spec: (
            spec.recovery.on_loss is not OnLoss.SHRINK or not _depends_on_ranks(spec.communication)
        ),
        cel=f"self.recovery.onLoss != 'Shrink' || !{_DEPENDS_ON_RANKS}",
    ),
    Rule(
        scope="spec",
        field="batch.global",
        sentence="the {global} samples of a round are no multiple of {share}, which is micro x "
        "localSteps x clientsPerRound or ranks, change one of them",
        holds=_fits_rounds,
        cel=f"!{_HAS_ROUNDS} || !has(self.batch) || self.batch.global % ({_SHARE}) == 0",
        values={
            "global": (lambda spec: spec.batch.global_batch, "self.batch.global"),
            "share": (_share, _SHARE),
        },
    ),
)
