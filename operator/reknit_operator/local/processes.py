"""The processes of a session, as another process of this machine finds them."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reknit.protocol.settings import ENV_POD_IP, ENV_POD_NAME, ENV_ROLE, ENV_TOKEN
from reknit_operator.constants import Role
from reknit_operator.local.nursery import ROLE
from reknit_operator.local.sweep import ENV_SESSION, find


@dataclass(frozen=True, slots=True)
class Coordinator:
    """The coordinator's process, and how it is asked."""

    pid: int
    address: str
    token: str


@dataclass(frozen=True, slots=True)
class Processes:
    """The first process of each part of a session."""

    operator: int | None = None
    coordinator: Coordinator | None = None
    agents: Mapping[str, int] = field(default_factory=dict)
    """By pod."""


def find_processes(session_id: str) -> Processes:
    """What runs of a session at this moment."""
    found = {pid: _environment(pid) for pid in find({ENV_SESSION: session_id})}
    # The nursery and its forks: forkservers and ranks, none of which is a part's first process.
    variables = {pid: each for pid, each in found.items() if each.get(ENV_ROLE) != ROLE}
    pods = {pid: each.get(ENV_POD_NAME) for pid, each in variables.items()}
    operator, coordinator = None, None
    agents: dict[str, int] = {}
    for pid, pod in pods.items():
        # A part's first process was started from outside of it; its others descend from it.
        parent = _parent(pid)
        if parent in pods and pods[parent] == pod:
            continue
        if pod is None:
            operator = pid
        elif variables[pid].get(ENV_ROLE) == Role.COORDINATOR:
            address, token = (variables[pid].get(name, "") for name in (ENV_POD_IP, ENV_TOKEN))
            coordinator = Coordinator(pid, address, token)
        else:
            agents[pod] = pid
    return Processes(operator, coordinator, agents)


def _environment(pid: int) -> dict[str, str]:
    """The variables that a process was started with; empty if it has gone meanwhile."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return {name: value for name, found, value in (e.partition("=") for e in lines) if found}
    return {}


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None
