"""What the optimizer of one worker remembers from one round to the next.

Apart from what the optimizer works on: a round that is broken off leaves this as it was, so that it
can be taken anew.
"""

from collections.abc import Iterator, Mapping

import torch

from reknit.protocol.base import Json
from reknit.state import optimizer as optimizer_state
from reknit.state.description import Interval, Piece, StateSource, TensorSpec


class Remembered:
    """The state of an optimizer as of the version that is committed.

    Args:
        parameters: those that the optimizer updates, by name.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self._parameters = parameters
        self._tensors: dict[str, torch.Tensor] = {}
        """By KEY/NAME."""
        self.scalars: Json = None
        """The single numbers, the same for all workers, which take equally many steps."""

    def take(self, optimizer: torch.optim.Optimizer) -> None:
        """Copies what the optimizer has come to."""
        with torch.no_grad():
            for name, tensor in live(optimizer, self._parameters):
                if name in self._tensors:
                    self._tensors[name].copy_(tensor)
                else:
                    self._tensors[name] = tensor.detach().clone()
        holders = [(parameter, (name,)) for name, parameter in self._parameters.items()]
        self.scalars = optimizer_state.scalars(optimizer, holders)

    def give(self, optimizer: torch.optim.Optimizer) -> None:
        """Puts the optimizer back to it; before anything was taken to a state without anything."""
        states: dict[str, optimizer_state.State] = {
            name: optimizer_state.read_scalars(self.scalars, [name]) for name in self._parameters
        }
        for full_name, tensor in self._tensors.items():
            key, name = full_name.split("/", 1)
            states[name][key] = tensor.clone()
        for name, parameter in self._parameters.items():
            optimizer_state.replace(optimizer, parameter, states[name])

    def specs(self) -> dict[str, TensorSpec]:
        """Every tensor, by KEY/NAME."""
        return {
            name: TensorSpec(tuple(tensor.shape), tensor.dtype)
            for name, tensor in self._tensors.items()
        }

    def pieces(self, prefix: str) -> list[Piece]:
        """All of it, as live views whose names begin with `prefix`."""
        return pieces(prefix, self._tensors)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By KEY/NAME, in the same order on every worker."""
        return dict(self._tensors)

    def install(self, source: StateSource, prefix: str, scalars: Json) -> None:
        """Takes what `source` has under `prefix`."""
        self.scalars = scalars
        self._tensors = {}
        for full_name, spec in source.specs.items():
            if full_name.startswith(prefix):
                name = full_name.removeprefix(prefix)
                parameter = self._parameters[name.split("/", 1)[1]]
                flat = source.read(full_name, Interval(0, spec.num_elements))
                self._tensors[name] = flat.clone().to(parameter.device).view(spec.shape)


def live(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """KEY/NAME and tensor of what an optimizer keeps at present, in a fixed order."""
    for name, parameter in parameters.items():
        for key, tensor in optimizer_state.tensors(optimizer, parameter).items():
            yield f"{key}/{name}", tensor.detach()


def pieces(prefix: str, tensors: Mapping[str, torch.Tensor]) -> list[Piece]:
    """Whole tensors as pieces."""
    return [
        Piece(prefix + name, Interval(0, tensor.numel()), tensor.detach().view(-1))
        for name, tensor in tensors.items()
    ]
