"""Adding up gradients in a lower number format: half the bytes.

The division by the number of ranks comes first, so that a sum overflows no sooner than a gradient
does. Every rank gets the same bits, as each element is added up in one place.
"""

from typing import Final

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from reknit.comm.group import RankGroup
from reknit.protocol.settings import Compression

FORMATS: Final = {Compression.FP16: torch.float16, Compression.BF16: torch.bfloat16}


def compress_buckets(parallel: DistributedDataParallel, dtype: torch.dtype, num_ranks: int) -> None:
    """Has DDP add up its buckets in `dtype`; they hold the mean in their own format afterwards.

    Torch has such hooks, but refuses the one for BF16 unless there is NCCL.
    """

    def reduce(
        _: object,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[torch.Tensor]:
        gradient: torch.Tensor = bucket.buffer()
        lower = (gradient / num_ranks).to(dtype)
        work = dist.all_reduce(lower, async_op=True)

        def expand(done: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
            # Raises here, and so in the backward, if the generation has ended meanwhile.
            return gradient.copy_(done.value()[0])

        reduced: torch.futures.Future[torch.Tensor] = work.get_future().then(expand)
        return reduced

    parallel.register_comm_hook(None, reduce)


def mean_of_ranks(tensor: torch.Tensor, group: RankGroup, dtype: torch.dtype) -> None:
    """Puts the mean over the ranks in the place of `tensor`, having added it up in `dtype`."""
    if group.world_size > 1:
        lower = (tensor / group.world_size).to(dtype)
        tensor.copy_(group.all_reduce(lower))
