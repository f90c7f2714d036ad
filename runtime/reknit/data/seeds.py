"""Derived randomness: every generator is seeded by what it is for, none is carried along.

A step that is redone, and a world of another size, therefore draw the same numbers.
"""

from hashlib import blake2b


def derive_seed(purpose: str, *numbers: int) -> int:
    """A seed in 0 .. 2**63 - 1 that depends on every argument; the same on every platform."""
    text = ":".join([purpose, *map(str, numbers)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def micro_batch_seed(seed: int, step: int, index: int, purpose: str = "compute") -> int:
    """The seed of one micro-batch, whichever rank runs it.

    Args:
        seed: the job's seed.
        step: steps committed before this one.
        index: the micro-batch's index within the global batch.
        purpose: `compute` for forward and backward, `transform` for the samples; were both seeded
            alike, a crop and a dropout mask would come from the same numbers.
    """
    return derive_seed(purpose, seed, step, index)
