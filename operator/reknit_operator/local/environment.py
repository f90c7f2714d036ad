"""What a kubelet puts into a container's environment."""

import os
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reknit.protocol.settings import ENV_COORDINATOR, ENV_TERMINATION_LOG
from reknit_operator.local.sweep import ENV_SESSION
from reknit_operator.reconcile.client import Object


@dataclass(frozen=True, slots=True)
class HostEnvironment:
    """What every pod of a session gets from its host."""

    session_id: str
    coordinator: str
    """Address of the coordinator, in place of its DNS name."""
    variables: Mapping[str, str]
    """The host's own variables."""
    python_path: Sequence[Path] = ()
    """Folders that come first where modules are looked for."""

    def base(self) -> dict[str, str]:
        """The variables of every process of the session."""
        paths = [str(path) for path in self.python_path]
        paths += [path for path in [self.variables.get("PYTHONPATH", "")] if path]
        variables = {"OMP_NUM_THREADS": "1", **self.variables}
        variables |= {
            ENV_SESSION: self.session_id,
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONUNBUFFERED": "1",
        }
        if paths:
            variables["PYTHONPATH"] = os.pathsep.join(paths)
        return variables


def container_environment(
    pod: Object, host: HostEnvironment, *, secrets: Mapping[str, Object], termination_log: Path
) -> dict[str, str]:
    """The complete environment of a pod's container.

    Raises:
        KeyError: a Secret that it refers to does not exist.
    """
    variables = host.base()
    for variable in pod["spec"]["containers"][0].get("env", ()):
        variables[variable["name"]] = _value(variable, pod, secrets)
    if ENV_COORDINATOR in variables:
        port = variables[ENV_COORDINATOR].rpartition(":")[2]
        variables[ENV_COORDINATOR] = f"{host.coordinator}:{port}"
    variables[ENV_TERMINATION_LOG] = str(termination_log)
    return variables


def _value(variable: Mapping[str, Any], pod: Object, secrets: Mapping[str, Object]) -> str:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if "secretKeyRef" in source:
        reference = source["secretKeyRef"]
        return b64decode(secrets[reference["name"]]["data"][reference["key"]]).decode()
    value: Any = pod
    for part in source["fieldRef"]["fieldPath"].split("."):
        value = value[part]
    return str(value)
