"""The Secret with the token that the job's processes show to each other."""

from base64 import b64encode
from typing import Any

from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.metadata import child_metadata
from reknit_operator.constants import TOKEN_KEY, secret_name


def build_secret(job: DistributedTrainingJob, token: str) -> dict[str, Any]:
    """The Secret of `job` with `token` in it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": child_metadata(job, secret_name(job.metadata.name), "token"),
        "type": "Opaque",
        "immutable": True,
        "data": {TOKEN_KEY: b64encode(token.encode()).decode()},
    }
