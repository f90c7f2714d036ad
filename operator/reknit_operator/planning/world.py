"""Which rank lives in which pod, and where it stands along each axis of parallelism."""

from collections.abc import Iterator
from dataclasses import dataclass

from reknit.layout import Degrees
from reknit_operator.constants import Role, training_pod_name


@dataclass(frozen=True, slots=True)
class Seat:
    """One rank's place in the world."""

    rank: int
    pod: str
    slot: int
    """Number of the process within its pod."""
    data: int
    pipeline: int
    tensor: int


def seats(job: str, processes_per_pod: int, degrees: Degrees) -> Iterator[Seat]:
    """The ranks of a job of resolved `degrees`, in order.

    Neighbours along the tensor axis, which talk most, sit next to each other; then come the data
    axis and, with the least to say, the pipeline axis.
    """
    for rank in range(degrees.data * degrees.pipeline * degrees.tensor):
        replica, slot = divmod(rank, processes_per_pod)
        rest, tensor = divmod(rank, degrees.tensor)
        pipeline, data = divmod(rest, degrees.data)
        yield Seat(
            rank=rank,
            pod=training_pod_name(job, Role.WORKER, replica, attempt=1, replacements=0),
            slot=slot,
            data=data,
            pipeline=pipeline,
            tensor=tensor,
        )
