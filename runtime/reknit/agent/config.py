"""What an agent finds in its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pydantic import ValidationError

from reknit.errors import ConfigurationError
from reknit.protocol import settings as names
from reknit.protocol.base import Endpoint
from reknit.protocol.settings import JobSettings

DEFAULT_TARGET: Final = "reknit.rank.main:run"
"""What a forked rank process calls: target(settings, channel) -> exit status."""


Role: TypeAlias = Literal["worker", "spare", "server"]
_ROLES: Final[Mapping[str, Role]] = {"worker": "worker", "spare": "spare", "server": "server"}


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One agent's place in its job."""

    settings: JobSettings
    coordinator: Endpoint
    name: str
    """The pod's name."""
    host: str
    """The pod's address, as other pods reach it."""
    node: str
    role: Role
    replica: int
    termination_log: Path
    token: str = field(repr=False)
    target: str = DEFAULT_TARGET


def read_config(environment: Mapping[str, str], target: str = DEFAULT_TARGET) -> AgentConfig:
    """The agent's place, from the variables of its pod.

    Raises:
        ConfigurationError: a variable is missing or has no meaning.
    """

    def get(name: str, default: str | None = None) -> str:
        value = environment.get(name, default)
        if value is None:
            raise ConfigurationError(f"the pod's environment lacks {name}")
        return value

    try:
        settings = JobSettings.model_validate_json(get(names.ENV_JOB))
    except ValidationError as error:
        raise ConfigurationError(
            f"{names.ENV_JOB} cannot be read: {error.errors()[0]['msg']}"
        ) from error
    role = get(names.ENV_ROLE, "worker")
    if role not in _ROLES:
        raise ConfigurationError(
            f"an agent's {names.ENV_ROLE} is worker, spare or server, not {role}"
        )
    host = get(names.ENV_POD_IP)
    name = get(names.ENV_POD_NAME)
    return AgentConfig(
        settings=settings,
        coordinator=_endpoint(get(names.ENV_COORDINATOR)),
        name=name,
        host=host,
        node=get(names.ENV_NODE_NAME, name),
        role=_ROLES[role],
        replica=_integer(names.ENV_REPLICA, get(names.ENV_REPLICA)),
        termination_log=Path(get(names.ENV_TERMINATION_LOG, "/dev/termination-log")),
        token=get(names.ENV_TOKEN),
        target=target,
    )


def _endpoint(text: str) -> Endpoint:
    host, separator, port = text.rpartition(":")
    if not separator or not host:
        raise ConfigurationError(f"{names.ENV_COORDINATOR} must be host:port, not {text!r}")
    return Endpoint(host=host.strip("[]"), port=_integer(names.ENV_COORDINATOR, port))


def _integer(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ConfigurationError(f"{name} needs a whole number, not {text!r}")
    return int(text)
