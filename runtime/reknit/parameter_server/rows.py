"""Arithmetic on a few rows of a table."""

from collections.abc import Sequence
from typing import TypeAlias

import torch

Rows: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Indices, int64 of shape (n,), and their values of shape (n, width)."""


def combine(parts: Sequence[Rows]) -> Rows:
    """The sum of rows by index, in FP32: indices ascending, each once.

    Values of one index are added in the order in which they come, so equal parts give equal bits.
    """
    indices = torch.unique(torch.cat([part[0] for part in parts]))
    total = torch.zeros(len(indices), parts[0][1].shape[1])
    for rows, values in parts:
        total.index_add_(0, torch.searchsorted(indices, rows), values.float())
    return indices, total


def overlay(values: torch.Tensor, rows: torch.Tensor, other: Rows) -> None:
    """Puts rows of `other`, whose indices ascend, over those `values` that have the same index.

    Args:
        values: changed in place, shape (n, width).
        rows: their indices, shape (n,).
        other: what comes over them.
    """
    indices, replacements = other
    if len(indices):
        places = torch.searchsorted(indices, rows).clamp_(max=len(indices) - 1)
        found = indices[places] == rows
        values[found] = replacements[places[found]]
