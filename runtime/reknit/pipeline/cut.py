"""Where a model is cut into stages, as a pure function."""

from collections.abc import Sequence
from itertools import accumulate, pairwise


def by_weight(weights: Sequence[int], num_stages: int) -> tuple[int, ...]:
    """The layers at which stages begin, so that the heaviest stage is as light as can be.

    Of the cuts that do so, the one whose first stages are the fullest.

    Args:
        weights: of each layer, e.g. its number of parameters.
        num_stages: at most as many as there are layers.

    Raises:
        ValueError: there are fewer layers than stages.
    """
    if len(weights) < num_stages:
        raise ValueError(f"{len(weights)} layers do not make {num_stages} stages")
    sums = [0, *accumulate(weights)]
    # heaviest[k][i]: the heaviest of k stages that the layers from i on are cut into, at best.
    heaviest = [[float("inf")] * len(sums) for _ in range(num_stages + 1)]
    heaviest[0][-1] = 0
    for stages in range(1, num_stages + 1):
        for first in range(len(weights) - stages + 1):
            heaviest[stages][first] = min(
                max(sums[after] - sums[first], heaviest[stages - 1][after])
                for after in range(first + 1, len(weights) - stages + 2)
            )
    limit = heaviest[num_stages][0]
    starts = [0]
    for left in range(num_stages - 1, 0, -1):
        first = starts[-1]
        starts.append(
            max(
                after
                for after in range(first + 1, len(weights) - left + 1)
                if sums[after] - sums[first] <= limit and heaviest[left][after] <= limit
            )
        )
    return tuple(starts)


def by_names(names: Sequence[str], first_of_stages: Sequence[str]) -> tuple[int, ...]:
    """The layers at which stages begin, as they are named; the first stage begins by itself.

    Raises:
        ValueError: a name is no layer's, or they are not in the order of the layers.
    """
    unknown = [name for name in first_of_stages if name not in names]
    if unknown:
        raise ValueError(f"{unknown[0]} is no layer; the layers are {', '.join(names)}")
    starts = (0, *(names.index(name) for name in first_of_stages))
    for (one, other), name in zip(pairwise(starts), first_of_stages, strict=True):
        if one >= other:
            raise ValueError(f"{name} comes too early; name layers in their order, not the first")
    return starts


def ranges(starts: Sequence[int], num_layers: int) -> tuple[range, ...]:
    """The layers of each stage."""
    return tuple(range(one, other) for one, other in pairwise((*starts, num_layers)))
