"""PowerSGD: a gradient as the product of two thin matrices, and what that leaves out carried on.

Vogels, Karimireddy and Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization", 2019, algorithms 1 and 2: one step of subspace iteration from where the last one
ended. Each rank adds to its gradient what compression has left out before.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from reknit.comm.group import RankGroup
from reknit.data.seeds import derive_seed
from reknit.traffic import is_factored, matrix_shape

_SMALLEST_NORM = 1e-8
"""Of a column that is divided by its norm: one of zeros stays so."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What compression keeps from step to step, by parameter."""

    left_out: Mapping[str, torch.Tensor]
    """(rows, columns of the gradient); this rank's own."""
    columns: Mapping[str, torch.Tensor]
    """(columns of the gradient, rank of the approximation); the same on all ranks."""


def first_memory(
    shapes: Mapping[str, tuple[int, ...]], rank: int, seed: int, device: torch.device
) -> Memory:
    """The memory before the first step, for the parameters that are smaller when compressed.

    Args:
        shapes: of all trained parameters, by name.
        rank: of the approximation.
        seed: the job's seed.
        device: where it is to be.
    """
    left_out: dict[str, torch.Tensor] = {}
    columns: dict[str, torch.Tensor] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        size = matrix_shape(shape)
        if is_factored(shape, rank):
            generator = torch.Generator().manual_seed(derive_seed("power-sgd", seed, number))
            left_out[name] = torch.zeros(size, device=device)
            columns[name] = torch.randn(size[1], rank, generator=generator).to(device)
    return Memory(left_out, columns)


def reduce(
    gradients: Mapping[str, torch.Tensor], memory: Memory, group: RankGroup
) -> tuple[dict[str, torch.Tensor], Memory]:
    """The mean over the ranks, approximated, and what is to be kept if the step is committed.

    All ranks together, in two all-reductions. Every rank gets the same bits, as each works out the
    product from the same sums. What the memory does not name is not approximated.

    Args:
        gradients: this rank's, by name; the same names and shapes on all ranks.
        memory: as of the committed version.
        group: the ranks.
    """
    wanted = {
        name: gradients[name].view(left_out.shape) + left_out
        for name, left_out in memory.left_out.items()
    }
    others = {name: value for name, value in gradients.items() if name not in wanted}
    rows = {name: matrix @ memory.columns[name] for name, matrix in wanted.items()}
    # Names with a slash in front are no parameter's.
    sums = _means({**others, **{f"/{name}": value for name, value in rows.items()}}, group)
    bases = {name: orthogonalized(sums[f"/{name}"]) for name in wanted}
    columns = _means({name: wanted[name].T @ basis for name, basis in bases.items()}, group)
    means, left_out = {name: sums[name] for name in others}, {}
    for name, matrix in wanted.items():
        approximation = bases[name] @ columns[name].T
        left_out[name] = matrix - approximation
        means[name] = approximation.view(gradients[name].shape)
    return means, Memory(left_out, columns)


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """The columns made orthogonal to those before and of length 1, by modified Gram-Schmidt.

    A column that depends on those before becomes noise of length below 1, or zero.
    """
    result = matrix.clone()
    for index in range(result.shape[1]):
        column = result[:, index]
        column /= torch.linalg.vector_norm(column) + _SMALLEST_NORM
        rest = result[:, index + 1 :]
        rest -= torch.outer(column, column @ rest)
    return result


def _means(tensors: Mapping[str, torch.Tensor], group: RankGroup) -> dict[str, torch.Tensor]:
    """The means over the ranks, in one all-reduction."""
    if not tensors:
        return {}
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    parts = torch.split(
        group.all_reduce(flat / group.world_size), [tensor.numel() for tensor in tensors.values()]
    )
    return {
        name: part.view(tensor.shape)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }
