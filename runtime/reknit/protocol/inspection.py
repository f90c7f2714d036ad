"""What a dry run of the user's function tells `reknit validate` and `reknit plan`."""

from pydantic import Field, TypeAdapter

from reknit.layout import Sharding
from reknit.protocol.base import Json, Message


class ParameterInfo(Message):
    """One trainable parameter, or a buffer."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int | None = None
    """Index of the optimizer's parameter group; None for buffers and frozen parameters."""
    divided: bool = False
    """Whether tensor parallelism divides it among ranks."""


class StageInfo(Message):
    """One stage of a pipeline."""

    layers: tuple[str, ...]
    """Names of its layers, in their order."""
    num_elements: int
    """Of its trained parameters; those that several stages share count in each."""


class Inspection(Message):
    """The model and optimizer that the user's function asks for."""

    parameters: tuple[ParameterInfo, ...]
    buffers: tuple[ParameterInfo, ...] = ()
    tables: tuple[str, ...] = ()
    """Embeddings whose gradients are sparse."""
    optimizer: str
    """Qualified name of the class."""
    optimizer_tensors: int = 0
    """State tensors of a parameter's size per parameter: 2 for Adam."""
    elementwise: bool = True
    """Whether each element's update depends on that element alone."""
    shadowable: bool = True
    """Whether a copy that takes the same steps stays the same bit for bit."""
    num_samples: int | None = None
    total_steps: int | None = None
    activation_bytes: dict[Sharding, int] = Field(default_factory=dict)
    """Bytes that one micro-batch keeps for backward, by sharding, as autocast and DeepSpeed lower
    the precision differently; left out where the loss could not run without elements."""
    stages: tuple[StageInfo, ...] = ()
    """The stages that the model is cut into; empty where it is not."""
    warm_start_obstacle: str | None = None
    """Why rank processes cannot be forked from a process that has imported the user's module."""
    config: dict[str, Json] = Field(default_factory=dict)
    """The configuration with its defaults."""
    config_fields: tuple[str, ...] = ()
    """Fields that the function's own type of configuration has; empty where it takes a dict."""


class InspectionFailure(Message):
    """Why there is no `Inspection`."""

    problems: tuple[str, ...]
    """One sentence each, with the path of the field where there is one."""
    traceback: str | None = None
    """The user's own, when the user's code raised."""


INSPECTION_RESULT: TypeAdapter[Inspection | InspectionFailure] = TypeAdapter(
    Inspection | InspectionFailure
)
