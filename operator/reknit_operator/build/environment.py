"""The environment of a job's containers."""

from typing import Any

from reknit.protocol.settings import (
    COORDINATOR_PORT,
    ENV_COORDINATOR,
    ENV_INCARNATION,
    ENV_JOB,
    ENV_NODE_NAME,
    ENV_POD_IP,
    ENV_POD_NAME,
    ENV_REPLICA,
    ENV_ROLE,
    ENV_TOKEN,
)
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.settings import job_settings
from reknit_operator.constants import (
    COORDINATOR_HOSTNAME,
    TOKEN_KEY,
    Role,
    secret_name,
    service_name,
)

Variable = dict[str, Any]


def coordinator_address(job: DistributedTrainingJob) -> str:
    """host:port where the agents of `job` find its coordinator, whichever incarnation it is."""
    service = service_name(job.metadata.name)
    return f"{COORDINATOR_HOSTNAME}.{service}.{job.metadata.namespace}.svc:{COORDINATOR_PORT}"


def training_environment(
    job: DistributedTrainingJob, options: BuildOptions, role: Role, replica: int
) -> list[Variable]:
    """Variables of the training container of one worker or spare."""
    return [
        *_common(job, options, role, replica),
        _value(ENV_COORDINATOR, coordinator_address(job)),
    ]


def coordinator_environment(
    job: DistributedTrainingJob, options: BuildOptions, incarnation: int
) -> list[Variable]:
    """Variables of the coordinator's container."""
    return [
        *_common(job, options, Role.COORDINATOR, 0),
        _value(ENV_INCARNATION, str(incarnation)),
    ]


def _common(
    job: DistributedTrainingJob, options: BuildOptions, role: Role, replica: int
) -> list[Variable]:
    secret = {"name": secret_name(job.metadata.name), "key": TOKEN_KEY}
    return [
        _value(ENV_JOB, job_settings(job, options).model_dump_json()),
        {"name": ENV_TOKEN, "valueFrom": {"secretKeyRef": secret}},
        _field(ENV_POD_NAME, "metadata.name"),
        _field(ENV_POD_IP, "status.podIP"),
        _field(ENV_NODE_NAME, "spec.nodeName"),
        _value(ENV_ROLE, role),
        _value(ENV_REPLICA, str(replica)),
        _value("PYTHONUNBUFFERED", "1"),
    ]


def _value(name: str, value: str) -> Variable:
    return {"name": name, "value": str(value)}


def _field(name: str, path: str) -> Variable:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
