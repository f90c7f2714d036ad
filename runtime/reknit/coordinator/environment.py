"""A coordinator's settings from its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from reknit.errors import ConfigurationError
from reknit.protocol.settings import ENV_INCARNATION, ENV_JOB, ENV_POD_IP, ENV_TOKEN, JobSettings


@dataclass(frozen=True, slots=True)
class Environment:
    """What the pod's environment says."""

    settings: JobSettings
    token: str = field(repr=False)
    host: str
    """Where to listen."""
    incarnation: int


def read(variables: Mapping[str, str]) -> Environment:
    """The environment of this coordinator.

    Raises:
        ConfigurationError: a variable is missing or malformed; values are not repeated.
    """
    text, token, host, number = (
        _required(variables, name) for name in (ENV_JOB, ENV_TOKEN, ENV_POD_IP, ENV_INCARNATION)
    )
    try:
        settings = JobSettings.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{ENV_JOB} is not a job: {where or 'it'}: {first['msg']}"
        ) from None
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise ConfigurationError(f"{ENV_INCARNATION} must be a number from 1 on")
    return Environment(settings=settings, token=token, host=host, incarnation=int(number))


def _required(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name, "")
    if not value:
        raise ConfigurationError(f"the environment variable {name} is not set")
    return value
