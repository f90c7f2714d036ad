"""How a loss function that knows nothing of stages meets a model that is cut into them.

The loss is called as `loss(model, micro_batch)`. On the first stage the model that it is given
tells what it was called with, and ends the call there; on the last one it answers with what the
stages came to. So the same loss runs unchanged on one process and on many.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from reknit.errors import ConfigurationError


class Called(BaseException):
    """Ends a loss function where it calls the model; no `except Exception` stops it."""

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments
        self.options = options


class CutModel(nn.Module):
    """Stands for the user's model in the loss function.

    Args:
        whole: the user's model, of which this rank has only some layers.
    """

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        # Not as a submodule: the parameters are not this module's.
        self.__dict__["_whole"] = whole
        self.answer: Callable[[], Any] | None = None
        """What to return instead of raising `Called`; taken by one call."""
        self._is_called = False

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """What the last stage came to.

        Raises:
            Called: this is the first stage.
            ConfigurationError: the loss calls the model a second time.
        """
        if self.answer is None:
            if self._is_called:
                raise ConfigurationError(
                    "job.engine: the loss calls the model more than once, which a pipeline cannot "
                    "do; let the model's forward do it in one call"
                )
            raise Called(arguments, options)
        answer, self.answer = self.answer, None
        self._is_called = True
        return answer()

    def begin(self, answer: Callable[[], Any] | None) -> None:
        """Another call of the loss function is about to begin."""
        self.answer, self._is_called = answer, False
        self.training = self.__dict__["_whole"].training

    @property
    def was_called(self) -> bool:
        """Whether the loss function has called the model since `begin`."""
        return self._is_called

    def __getattr__(self, name: str) -> Any:
        """Settings of the model; its layers and tensors may lie on another rank.

        Raises:
            ConfigurationError: the loss asks for a layer, a parameter or a buffer.
        """
        if name in ("_parameters", "_buffers", "_modules"):
            return super().__getattr__(name)
        value = getattr(self.__dict__["_whole"], name)
        if isinstance(value, nn.Module | torch.Tensor):
            raise ConfigurationError(
                f"job.engine: the loss uses {name} of the model, which may lie on another stage of "
                "the pipeline; use it in the model's forward"
            )
        return value
