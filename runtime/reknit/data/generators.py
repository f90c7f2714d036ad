"""The global generators that users' code may draw from, seeded all alike."""

import random

import numpy as np
import torch

from reknit.data.seeds import derive_seed


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds Python's `random`, NumPy's global generator and torch's, also that of `device`.

    Only for the thread that trains, which also runs the model: threads share these generators, so
    one that loads data meanwhile has to draw from generators of its own.

    Args:
        seed: 0 .. 2**63 - 1.
        device: where the model is.
    """
    if device.type == "cpu":
        # `torch.manual_seed` takes a millisecond to note where it was called from, for devices that
        # are not in use.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    random.seed(seed)
    # All three are the same algorithm, and the other two are seeded by the same number. NumPy's
    # takes 32 bits.
    np.random.seed(derive_seed("numpy", seed) & 0xFFFFFFFF)
