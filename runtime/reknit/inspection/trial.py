"""A loss that cannot run on tensors without elements: whether that is the user's mistake."""

from typing import Any, Final

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    UnsupportedFakeTensorException,
    UnsupportedMutationAliasingException,
    UnsupportedOperatorException,
)

from reknit.arguments import check_loss_value
from reknit.errors import ConfigurationError
from reknit.inspection.model import Built
from reknit.job import Loss
from reknit.protocol.outcome import ExitClass
from reknit.rank.failure import classify, place_of

MAX_ELEMENTS: Final = 50_000_000
"""Of a model that is built for real to try its loss."""

_WITHOUT_ELEMENTS: Final = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    UnsupportedFakeTensorException,
    UnsupportedMutationAliasingException,
    UnsupportedOperatorException,
)
"""What torch raises where only elements, or another device, would tell the result."""

_PROGRAMMING: Final = (TypeError, AttributeError, NameError)
"""What is wrong whatever the tensors hold."""

_DEVICES: Final = ("cuda", "nvidia", "triton", "gpu", "backend", "not implemented for")
"""Words of errors that another machine may not raise."""


def refuse_broken_loss(error: Exception | None, built: Built, loss: Loss, micro_batch: Any) -> None:
    """Returns where the loss may well run in training.

    A small model's loss is tried once, in FP32 on the CPU, as torch's rules for tensors without
    elements are not those of real ones; a large model's is taken for good unless it is surely not.

    Args:
        error: what the loss has raised on tensors without elements; None if it was not tried,
            because the model was built on real ones.
        built: the model, whose own tensors may be real.
        loss: the user's.
        micro_batch: a real one.

    Raises:
        ConfigurationError: the loss cannot run.
    """
    if isinstance(error, _WITHOUT_ELEMENTS):
        return
    if sum(parameter.numel() for parameter in built.model.parameters()) <= MAX_ELEMENTS:
        error = _tried(built, loss, micro_batch)
        if error is None or not _is_the_users(error):
            return
    elif not isinstance(error, _PROGRAMMING):
        return
    name, text = type(error).__name__, " ".join(str(error).split())
    place = place_of(error)
    raise ConfigurationError(
        f"job.engine: the loss raised {name}{': ' if text else ''}{text}"
        f"{f' ({place})' if place else ''}"
    ) from error


def _tried(built: Built, loss: Loss, micro_batch: Any) -> Exception | None:
    model = built.model if built.fake is None else built.factory()
    try:
        check_loss_value(loss(model, micro_batch))
    except Exception as error:
        return error
    return None


def _is_the_users(error: Exception) -> bool:
    """Whether a GPU with more memory would not help."""
    text = str(error).lower()
    return classify(error) is ExitClass.PROGRAM_ERROR and not any(w in text for w in _DEVICES)
