"""What reduced communication means for a job: bytes on the way, and bytes of memory."""

from reknit.layout import Sharding
from reknit.protocol.base import Message
from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import CommunicationSettings, Compression, JobSettings
from reknit.traffic import traffic
from reknit_operator.planning.memory import Memory, ModelSize

_FP32 = 4


class Sent(Message):
    """Bytes that one rank sends."""

    local_steps: int | None
    """Steps that a rank takes alone in each step of the job; None if all take each together."""
    reduced: int
    copied: int
    """For recovery."""
    plain: int
    """Without compression and rounds, for as many samples."""
    resets: bool
    """Whether what a lost rank's compression has left out is lost with it."""


def sent(settings: JobSettings, inspection: Inspection, num_ranks: int) -> Sent | None:
    """What a rank sends in a step of the job; None where no less is asked for."""
    communication = settings.communication
    if communication == CommunicationSettings():
        return None
    found = traffic(
        [parameter.shape for parameter in inspection.parameters if parameter.group is not None],
        communication,
        num_ranks=num_ranks,
        optimizer_tensors=inspection.optimizer_tensors,
        copies=settings.recovery.copies,
    )
    return Sent(
        local_steps=communication.rounds and communication.rounds.local_steps,
        reduced=found.reduced,
        copied=found.copied,
        plain=found.plain,
        resets=communication.compression is Compression.POWER_SGD,
    )


def with_communication(
    memory: Memory, size: ModelSize, optimizer_tensors: int, settings: JobSettings, num_ranks: int
) -> Memory:
    """What a rank without sharding needs, with what reduced communication takes beside it.

    Rounds: the committed weights, what was moved, the common step's momentum, what the optimizer
    remembers of the committed version, and two copies of that for each that is kept of another
    rank's. PowerSGD: what was left out, as committed and as of the step under way.
    """
    communication = settings.communication
    weights = _FP32 * size.trainable
    remembered = optimizer_tensors * weights if communication.divides_state else 0
    if communication.rounds is not None:
        momentum = weights if communication.rounds.outer_momentum else 0
        return memory.model_copy(
            update={
                "parameters": memory.parameters + weights,
                "gradients": memory.gradients + weights,
                "optimizer": memory.optimizer + momentum + remembered,
                "copies": 2 * min(settings.recovery.copies, num_ranks - 1) * remembered,
            }
        )
    if communication.compression is Compression.POWER_SGD:
        return memory.model_copy(update={"optimizer": memory.optimizer + 2 * weights})
    return memory


def divided(settings: JobSettings, sharding: Sharding) -> Sharding:
    """What `JobSettings.state_sharding` would be under this sharding."""
    return settings.model_copy(update={"sharding": sharding}).state_sharding
