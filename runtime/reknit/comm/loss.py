"""What a broken connection to another rank looks like."""

import torch


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank, or the way to it, is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    # Gloo raises plain RuntimeErrors that begin with the place in its source.
    return isinstance(error, RuntimeError) and "gloo/transport" in str(error)
