"""How much a rank sends in a step, for metrics."""

from reknit.protocol.settings import CommunicationSettings, JobSettings
from reknit.state import optimizer as optimizer_state
from reknit.strategies.base import Strategy
from reknit.traffic import traffic


def sent_figures(strategy: Strategy, settings: JobSettings, num_ranks: int) -> dict[str, float]:
    """Bytes of a step or round by name of the figure, where the job asks for fewer than usual."""
    if settings.communication == CommunicationSettings():
        return {}
    trained = [parameter for parameter in strategy.model.parameters() if parameter.requires_grad]
    kept = sum(
        tensor.numel()
        for parameter in trained
        for tensor in optimizer_state.tensors(strategy.optimizer, parameter).values()
    )
    found = traffic(
        [tuple(parameter.shape) for parameter in trained],
        settings.communication,
        num_ranks=num_ranks,
        optimizer_tensors=round(kept / sum(parameter.numel() for parameter in trained)),
        copies=settings.recovery.copies,
    )
    return {"sent_bytes": found.sent, "plain_bytes": found.plain}
