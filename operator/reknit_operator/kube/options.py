"""The command line of the operator in a cluster."""

import argparse
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import DEFAULT_IMAGE, OPERATOR_IMAGE


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator is to do, and where."""

    namespaces: tuple[str, ...] | None
    """None: all."""
    build: BuildOptions
    port: int
    """Of /healthz and /metrics."""
    lease: tuple[str, str] | None
    """Namespace and name of the Lease that it has to hold; None: it acts at once."""
    identity: str
    """Of this process among those that want the Lease."""
    log_level: str


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The options on the command line; ends the process with a sentence if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m reknit_operator.kube",
        description="Runs DistributedTrainingJobs of a Kubernetes cluster. The cluster is that of "
        "the pod's service account, elsewhere that of the kubeconfig's current context.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--all-namespaces", action="store_true", help="serve the whole cluster")
    where.add_argument(
        "--namespace",
        action="append",
        metavar="NAME",
        help="serve this namespace alone; may be given several times",
    )
    parser.add_argument(
        "--image",
        default=DEFAULT_IMAGE,
        help="image of training pods whose job names none (default: %(default)s)",
    )
    parser.add_argument(
        "--coordinator-image",
        default=OPERATOR_IMAGE,
        help="image of coordinators (default: %(default)s)",
    )
    parser.add_argument(
        "--coordinator-client",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="give jobs a NetworkPolicy that lets pods of this namespace ask coordinators; name "
        "the operator's own one and that of Prometheus",
    )
    parser.add_argument(
        "--disruption-budgets",
        action="store_true",
        help="give jobs a PodDisruptionBudget, so that drains take one worker at a time",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8080,
        help="of /healthz and /metrics (default: %(default)s)",
    )
    parser.add_argument(
        "--lease",
        metavar="NAMESPACE/NAME",
        help="stand by until this Lease can be held, and end when it is lost",
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING"), help="default: INFO"
    )
    found = parser.parse_args(arguments)
    if found.lease is not None and (found.lease.count("/") != 1 or "" in found.lease.split("/")):
        parser.error("--lease must be NAMESPACE/NAME")
    if not 1 <= found.port <= 65535:
        parser.error("--port must be a number from 1 to 65535")
    return Options(
        namespaces=None if found.all_namespaces else tuple(dict.fromkeys(found.namespace)),
        build=BuildOptions(
            image=found.image,
            coordinator_image=found.coordinator_image,
            coordinator_clients=tuple(dict.fromkeys(found.coordinator_client)),
            disruption_budgets=found.disruption_budgets,
        ),
        port=found.port,
        lease=None if found.lease is None else tuple(found.lease.split("/")),
        identity=f"{os.uname().nodename}_{uuid.uuid4().hex[:8]}",
        log_level=found.log_level,
    )
