"""What goes from stage to stage: activations with the state of the generators, and gradients.

Every message about activations begins with a header that says their shapes, so that micro-batches
may differ in length. torch's random generators travel with the activations: what a layer draws then
follows on what the layers before have drawn, as in one process. Gradients need no header: whoever
has sent an activation knows its shape.

Tags tell messages apart that two ranks exchange at the same time: an activation and a gradient may
be on their way between the same stages. NCCL has no tags; there messages between two ranks must be
received in the order in which they are sent, as they are unless ranks have several stages.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist

from reknit.comm.collectives import Collectives

_DTYPES: Final = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
_MAX_DIMENSIONS: Final = 8
_MAX_TENSORS: Final = 8
_ENTRY: Final = 3 + _MAX_DIMENSIONS
"""Numbers that describe a tensor: number format, whether it has a gradient, dimensions, sizes."""
_HEADER: Final = 1 + _MAX_TENSORS * _ENTRY
_ALONE: Final = -1
"""In place of the number of tensors: there is one, which is no tuple."""


@dataclass(frozen=True, slots=True)
class Route:
    """One edge between two stages, in one direction, for one micro-batch."""

    rank: int
    """The other end, along the pipeline."""
    tag: int


class Transport:
    """One rank's messages within a step.

    Args:
        group: the ranks of the pipeline.
        waited: is told the seconds that a message was waited for.
    """

    def __init__(self, group: Collectives, waited: Callable[[float], None]) -> None:
        self._group = group
        self._device = group.device
        self._waited = waited
        self._works: list[tuple[dist.Work, torch.Tensor]] = []

    def send_activations(self, output: torch.Tensor | Sequence[torch.Tensor], route: Route) -> None:
        """Begins to send what a stage came to, and where the generators stand now.

        Raises:
            TypeError: the output is no tensor or tuple of few tensors.
        """
        tensors = parts_of(output)
        self._send(_header(output, tensors).to(self._device), route)
        self._send(generator_state(self._device), route)
        for tensor in tensors:
            self._send(tensor.detach().contiguous(), route)

    def receive_activations(
        self, route: Route
    ) -> tuple[torch.Tensor | tuple[torch.Tensor, ...], torch.Tensor]:
        """The stage's inputs, leaves of a graph of its own, and the state of the generators."""
        header = self._receive(torch.empty(_HEADER, dtype=torch.int64, device=self._device), route)
        state = self._receive(torch.empty_like(generator_state(self._device)), route)
        numbers = header.tolist()
        count = 1 if numbers[0] == _ALONE else numbers[0]
        tensors = []
        for index in range(count):
            dtype, has_gradient, dims, *sizes = numbers[1 + index * _ENTRY :][:_ENTRY]
            empty = torch.empty(sizes[:dims], dtype=_DTYPES[dtype], device=self._device)
            tensors.append(self._receive(empty, route).requires_grad_(bool(has_gradient)))
        return (tensors[0] if numbers[0] == _ALONE else tuple(tensors)), state

    def send_gradients(self, inputs: Sequence[torch.Tensor], route: Route) -> None:
        """Begins to send the gradients of a stage's inputs; zeros where it has not used one."""
        for tensor in inputs:
            if tensor.requires_grad:
                gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                self._send(gradient.contiguous(), route)

    def receive_gradients(
        self, outputs: Sequence[torch.Tensor], route: Route
    ) -> list[torch.Tensor]:
        """The gradients of outputs that all have one."""
        return [
            self._receive(
                torch.empty_like(tensor.detach(), memory_format=torch.contiguous_format), route
            )
            for tensor in outputs
        ]

    def finish(self) -> None:
        """Waits until everything is sent."""
        # References to them would keep the group's connections open after its end.
        works, self._works = self._works, []
        for work, _ in works:
            work.wait()

    def _send(self, tensor: torch.Tensor, route: Route) -> None:
        # What is sent must stay as it is; it is let go as soon as it has arrived.
        self._works = [entry for entry in self._works if not entry[0].is_completed()]
        self._works.append((self._group.send(tensor, route.rank, route.tag), tensor))

    def _receive(self, tensor: torch.Tensor, route: Route) -> torch.Tensor:
        start = time.perf_counter()
        self._group.receive(tensor, route.rank, route.tag)
        self._waited(time.perf_counter() - start)
        return tensor


def parts_of(output: object) -> tuple[torch.Tensor, ...]:
    """The tensors of what a layer came to.

    Raises:
        TypeError: it is no tensor or tuple of few tensors.
    """
    tensors = output if isinstance(output, tuple | list) else (output,)
    if len(tensors) > _MAX_TENSORS or not all(
        isinstance(part, torch.Tensor) and part.ndim <= _MAX_DIMENSIONS and part.dtype in _DTYPES
        for part in tensors
    ):
        raise TypeError(
            "what a stage of a pipeline hands on must be a tensor or a tuple of at most "
            f"{_MAX_TENSORS} tensors, not {type(output).__name__}"
        )
    return tuple(tensors)


def _header(output: object, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    header = torch.zeros(_HEADER, dtype=torch.int64)
    header[0] = _ALONE if isinstance(output, torch.Tensor) else len(tensors)
    for index, tensor in enumerate(tensors):
        numbers = [_DTYPES.index(tensor.dtype), int(tensor.requires_grad), tensor.ndim]
        entry = torch.tensor([*numbers, *tensor.shape])
        header[1 + index * _ENTRY :][: len(entry)] = entry
    return header


def generator_state(device: torch.device) -> torch.Tensor:
    """Where torch's generators stand, on the CPU and on the rank's GPU if it has one."""
    state = torch.get_rng_state()
    if device.type == "cuda":
        state = torch.cat([state, torch.cuda.get_rng_state(device)])
    return state.to(device)


def set_generator_state(state: torch.Tensor, device: torch.device) -> None:
    """Puts the generators where `generator_state` has found them."""
    state = state.cpu()
    size = torch.get_rng_state().numel()
    torch.set_rng_state(state[:size])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:], device)
