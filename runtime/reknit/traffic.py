"""What data-parallel ranks send each other, as arithmetic; without torch.

An all-reduction over w ranks goes around a ring: each rank sends 2 (w - 1) / w of the bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from reknit.protocol.settings import CommunicationSettings, Compression

_FP32: Final = 4
_HALF: Final = 2


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one rank sends in a step of the job, which may be a round."""

    reduced: int
    """For the gradient, or for what a round has moved."""
    copied: int
    """For copies of what its optimizer remembers."""
    plain: int
    """Without compression, and with all ranks taking each of a round's local steps together."""

    @property
    def sent(self) -> int:
        """All of it."""
        return self.reduced + self.copied

    @property
    def ratio(self) -> float:
        """How many times as much there would be otherwise."""
        return self.plain / self.sent if self.sent else 1.0


def traffic(
    shapes: Sequence[tuple[int, ...]],
    communication: CommunicationSettings,
    *,
    num_ranks: int,
    optimizer_tensors: int,
    copies: int,
) -> Traffic:
    """What a rank sends, but for the few numbers of the gate.

    Args:
        shapes: of the trained parameters.
        communication: what the job asks for.
        num_ranks: data-parallel ranks.
        optimizer_tensors: what the optimizer keeps per parameter, in tensors of its size.
        copies: of each rank's own state.
    """
    elements = sum(map(prod, shapes))
    plain = _around(_FP32 * elements, num_ranks)
    rounds = communication.rounds
    if communication.compression is Compression.POWER_SGD:
        factors = sum(_factors(shape, communication.power_sgd_rank) for shape in shapes)
        return Traffic(_around(_FP32 * factors, num_ranks), 0, plain)
    width = _FP32 if communication.compression is Compression.NONE else _HALF
    reduced = _around(width * elements, num_ranks)
    if rounds is None:
        return Traffic(reduced, 0, plain)
    copied = 0
    if communication.divides_state:
        copied = min(copies, num_ranks - 1) * _FP32 * optimizer_tensors * elements
    # With clients, all ranks together would take as many steps as these have micro-batches for.
    taking_part = rounds.clients_per_round or num_ranks
    return Traffic(reduced, copied, plain * rounds.local_steps * taking_part // num_ranks)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """How PowerSGD sees a tensor as a matrix: all dimensions but the first are one."""
    rows = shape[0] if shape else 1
    return rows, prod(shape) // max(1, rows)


def is_factored(shape: tuple[int, ...], rank: int) -> bool:
    """Whether two factors of so many columns have fewer elements than the tensor itself."""
    rows, columns = matrix_shape(shape)
    return (rows + columns) * rank < rows * columns


def _factors(shape: tuple[int, ...], rank: int) -> int:
    """Elements of what PowerSGD sends of a tensor."""
    return sum(matrix_shape(shape)) * rank if is_factored(shape, rank) else prod(shape)


def _around(num_bytes: int, num_ranks: int) -> int:
    return 2 * (num_ranks - 1) * num_bytes // num_ranks
