"""What parameter servers can be combined with."""

from typing import Final

from reknit.layout import Precision, Sharding
from reknit.parameter_server.table import Consistency
from reknit.protocol.settings import OnLoss
from reknit_operator.api.communication import Communication
from reknit_operator.api.recovery import DEFAULT_COPIES, WrongNumbers
from reknit_operator.api.rules import Rule
from reknit_operator.api.spec import JobSpec
from reknit_operator.api.trainingrules import FUNCTION, is_function

_NOT_SERVED: Final = "!has(self.parameterServers)"


def _is_served(spec: JobSpec) -> bool:
    return spec.parameter_servers is not None


SERVER_RULES: Final = (
    Rule(
        scope="spec",
        field="parameterServers",
        sentence="a command finds no parameter servers, remove parameterServers or give a function",
        holds=lambda spec: is_function(spec) or not _is_served(spec),
        cel=f"{FUNCTION} || {_NOT_SERVED}",
    ),
    Rule(
        scope="spec.parameterServers",
        field="consistency",
        sentence="this version lets all workers take each step together, set consistency to "
        "Synchronous",
        holds=lambda servers: servers.consistency is Consistency.SYNCHRONOUS,
        cel="self.consistency == 'Synchronous'",
    ),
    Rule(
        scope="spec.parameterServers",
        field="maxStaleness",
        sentence="a largest staleness belongs to StaleSynchronous alone, remove maxStaleness",
        holds=lambda servers: servers.max_staleness is None,
        cel="!has(self.maxStaleness)",
    ),
    Rule(
        scope="spec.parameterServers",
        field="copies",
        sentence="2 copies of a range need at least 2 servers, set replicas to 2 or copies to 1",
        holds=lambda servers: servers.copies <= servers.replicas,
        cel="self.copies <= self.replicas",
    ),
    Rule(
        scope="spec",
        field="parallelism.sharding",
        sentence="parameter servers divide the parameters themselves, set sharding to None or "
        "remove parameterServers",
        holds=lambda spec: not _is_served(spec) or spec.parallelism.sharding is Sharding.NONE,
        cel=f"{_NOT_SERVED} || self.parallelism.sharding == 'None'",
    ),
    Rule(
        scope="spec",
        field="parallelism",
        sentence="parameter servers work with whole models alone, set stages and tensor to 1 or "
        "remove parameterServers",
        holds=lambda spec: (
            not _is_served(spec) or spec.parallelism.pipeline.stages == spec.parallelism.tensor == 1
        ),
        cel=f"{_NOT_SERVED} || (self.parallelism.pipeline.stages == 1 "
        "&& self.parallelism.tensor == 1)",
    ),
    Rule(
        scope="spec",
        field="communication",
        sentence="workers send their gradients to parameter servers and not to each other, set "
        "parameterServers.compression and remove communication",
        holds=lambda spec: not _is_served(spec) or spec.communication == Communication(),
        cel=f"{_NOT_SERVED} || (self.communication.compression == 'None' "
        "&& !has(self.communication.powerSgdRank) && !has(self.communication.rounds))",
    ),
    Rule(
        scope="spec",
        field="precision",
        sentence="parameter servers do not scale the loss, set precision to FP32 or BF16",
        holds=lambda spec: not _is_served(spec) or spec.precision is not Precision.FP16,
        cel=f"{_NOT_SERVED} || self.precision != 'FP16'",
    ),
    Rule(
        scope="spec",
        field="recovery.onLoss",
        sentence="with parameter servers this version keeps the number of workers, set onLoss to "
        "Wait",
        holds=lambda spec: not _is_served(spec) or spec.recovery.on_loss is OnLoss.WAIT,
        cel=f"{_NOT_SERVED} || self.recovery.onLoss == 'Wait'",
    ),
    Rule(
        scope="spec",
        field="recovery.copies",
        sentence="workers hold no shard that could be copied, set parameterServers.copies and "
        "remove recovery.copies",
        holds=lambda spec: not _is_served(spec) or spec.recovery.copies == DEFAULT_COPIES,
        cel=f"{_NOT_SERVED} || self.recovery.copies == {DEFAULT_COPIES}",
    ),
    Rule(
        scope="spec",
        field="recovery.wrongNumbers",
        sentence="parameter servers apply what was pushed, so no update can be taken back, remove "
        "wrongNumbers",
        holds=lambda spec: not _is_served(spec) or spec.recovery.wrong_numbers == WrongNumbers(),
        cel=f"{_NOT_SERVED} || (!has(self.recovery.wrongNumbers.outlierFactor) "
        "&& self.recovery.wrongNumbers.onBadData == 'Halt')",
    ),
)
