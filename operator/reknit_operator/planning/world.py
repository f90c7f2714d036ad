"""Which rank lives in which pod, and where it stands along each axis of parallelism."""

from collections.abc import Iterator
from dataclasses import dataclass

from reknit.layout import Degrees
from reknit.mesh import Mesh
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
    """The ranks of a job of resolved `degrees`, in order."""
    mesh = Mesh(degrees.data, degrees.pipeline, degrees.tensor)
    for rank in range(mesh.world_size):
        replica, slot = divmod(rank, processes_per_pod)
        place = mesh.coordinates(rank)
        yield Seat(
            rank=rank,
            pod=training_pod_name(job, Role.WORKER, replica, attempt=1, replacements=0),
            slot=slot,
            data=place.data,
            pipeline=place.stage,
            tensor=place.tensor,
        )
