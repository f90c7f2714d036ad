"""Choosing from many combinations."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


def covering(first: Iterable[A], second: Iterable[B], third: Sequence[C]) -> list[tuple[A, B, C]]:
    """Combinations of three in which every pair of values occurs, if the third has the fewest.

    A Latin square: what goes wrong by two circumstances coming together is found with far fewer
    tests than all combinations are.
    """
    return [
        (a, b, third[(i + j) % len(third)])
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]
