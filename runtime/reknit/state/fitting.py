"""Whether a stored state is one of this model, and what to say if it is not: pure."""

from collections.abc import Mapping
from typing import Final

from reknit.errors import CheckpointMismatchError
from reknit.state.description import TensorSpec

REMEDY: Final = (
    "run the configuration that it was written with, or start anew, without --resume or with "
    "another checkpoint.volume"
)
"""What a person can do about a checkpoint that does not fit."""


def first_difference(
    expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, TensorSpec]
) -> str | None:
    """The first thing in which the tensors of a checkpoint are not those of the model.

    Args:
        expected: the shape of every tensor that the model has.
        stored: every tensor in the checkpoint that would belong to the model.
    """
    for name, shape in expected.items():
        if name not in stored:
            return f"it has no {name}, which the model needs"
        if stored[name].shape != shape:
            return f"{name} has shape {stored[name].shape} there and {shape} here"
    for name in stored:
        if name not in expected:
            return f"it holds {name}, which the model does not have"
    return None


def mismatch(checkpoint: object, difference: str) -> CheckpointMismatchError:
    """The error that tells of a difference and what to do."""
    return CheckpointMismatchError(
        f"the checkpoint {checkpoint} does not fit: {difference}; {REMEDY}"
    )
