"""Choosing from many combinations."""

from collections.abc import Collection, Iterable, Sequence
from itertools import product
from typing import Any, TypeVar

import pytest

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


def short(cases: Iterable[tuple[Any, ...]], chosen: Collection[tuple[Any, ...]]) -> list[Any]:
    """All cases as parameters; those that are not chosen run in the full form alone."""
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.long) for case in cases]


def diagonal(*factors: Iterable[Any]) -> list[Any]:
    """All combinations as parameters; a few with every value among them make up the short form."""
    values = [list(factor) for factor in factors]
    chosen = [
        tuple(factor[number % len(factor)] for factor in values)
        for number in range(max(map(len, values)))
    ]
    return short(product(*values), chosen)


def thinned(first: Iterable[A], second: Iterable[B], third: Sequence[C]) -> list[Any]:
    """`covering` as parameters, of which the short form takes a few with every value among them."""
    seen: tuple[set[Any], ...] = (set(), set(), set())
    chosen = []
    for case in covering(first, second, third):
        if any(value not in known for value, known in zip(case, seen, strict=True)):
            chosen.append(case)
            for value, known in zip(case, seen, strict=True):
                known.add(value)
    return short(covering(first, second, third), chosen)
