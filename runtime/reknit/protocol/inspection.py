"""What a dry run of the user's function tells `reknit validate` and `reknit plan`."""

from pydantic import Field

from reknit.protocol.base import Json, Message


class ParameterInfo(Message):
    """One trainable parameter, or a buffer."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int | None = None
    """Index of the optimizer's parameter group; None for buffers and frozen parameters."""


class Inspection(Message):
    """The model and optimizer that the user's function asks for."""

    parameters: tuple[ParameterInfo, ...]
    buffers: tuple[ParameterInfo, ...] = ()
    optimizer: str
    """Qualified name of the class."""
    optimizer_tensors: int = 0
    """State tensors of a parameter's size per parameter: 2 for Adam."""
    elementwise: bool = True
    """Whether each element's update depends on that element alone."""
    num_samples: int | None = None
    total_steps: int | None = None
    activation_elements: int | None = None
    """Elements kept for backward by one micro-batch, None if the loss could not run on meta."""
    config: dict[str, Json] = Field(default_factory=dict)
    """The configuration with its defaults."""
