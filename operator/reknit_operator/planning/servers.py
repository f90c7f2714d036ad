"""What parameter servers and their workers hold, and which losses that survives."""

from typing import Final

from reknit.parameter_server.plan import ELEMENT_BYTES, ParameterSpec, place_ranges, plan_ranges
from reknit.protocol.base import Message
from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import JobSettings, ServerSettings
from reknit_operator.planning.memory import ModelSize

_WORKING_COPIES: Final = 2
"""Beside the parameters: the version before the present one, and the sum of gradients."""


class ServerShare(Message):
    """One server, when all are there."""

    pod: str
    primary_of: tuple[int, ...]
    """Numbers of ranges."""
    backup_of: tuple[int, ...]
    parameters: int
    """Bytes, of both copies; so are the others."""
    optimizer: int
    working: int
    """The version before, the sum of gradients, and the gradients that workers have pushed."""

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.parameters + self.optimizer + self.working


class ServedPlan(Message):
    """A job with parameter servers."""

    servers: tuple[ServerShare, ...]
    num_tables: int
    """Embeddings of which only rows travel."""
    worker_bytes: int
    """Of a rank: parameters, gradients, and the gradient on its way."""
    activation_bytes: int | None
    survivable: str
    """Which servers may be lost at once."""


def served_plan(settings: JobSettings, inspection: Inspection) -> ServedPlan | None:
    """What the servers of a job will hold; None if it has none."""
    servers = settings.servers
    if servers is None:
        return None
    trained = [p for p in inspection.parameters if p.group is not None]
    specs = [ParameterSpec(p.name, p.shape, p.name in inspection.tables) for p in trained]
    sizes = [part.num_bytes for part in plan_ranges(specs, servers.num_servers).ranges]
    places = place_ranges(servers.num_servers, servers.copies)
    shares = []
    for server in range(servers.num_servers):
        primary = tuple(n for n, (first, _) in enumerate(places) if first == server)
        backup = tuple(n for n, (_, second) in enumerate(places) if second == server)
        held = sum(sizes[number] for number in (*primary, *backup))
        shares.append(
            ServerShare(
                pod=f"{settings.name}-server-{server}",
                primary_of=primary,
                backup_of=backup,
                parameters=held,
                optimizer=held * inspection.optimizer_tensors,
                working=held * (_WORKING_COPIES + settings.world_size),
            )
        )
    size = ModelSize.of(inspection)
    elements = 3 * size.trainable + size.frozen
    return ServedPlan(
        servers=tuple(shares),
        num_tables=sum(spec.is_table for spec in specs),
        worker_bytes=elements * ELEMENT_BYTES + size.buffer_bytes,
        activation_bytes=inspection.activation_bytes.get(settings.sharding),
        survivable=_survivable(servers),
    )


def _survivable(servers: ServerSettings) -> str:
    if servers.copies == 1:
        return "none"
    if servers.num_servers <= 3:
        return "any server"
    return "any server; any 2 servers of which neither is the other's backup"
