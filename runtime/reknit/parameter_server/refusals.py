"""What training functions are told when they ask for what parameter servers cannot do."""

from typing import Final

NO_CLIPPING: Final = (
    "job.engine: with parameter servers the norm of the whole gradient is known nowhere, remove "
    "clip_grad_norm"
)
NO_RANK: Final = (
    "job.rank: the function also runs on parameter servers, which have no rank; ask for it after "
    "job.engine"
)
