"""The pod of one worker, spare or parameter server: an agent that runs processes, or may."""

from typing import Any

from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.environment import training_environment
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.overlay import apply_template
from reknit_operator.build.pod import Place, build_pod
from reknit_operator.build.settings import grace_period
from reknit_operator.constants import (
    CHECKPOINT_MOUNT,
    RUNTIME_GROUP,
    SOURCE_MOUNT,
    TRAINING_CONTAINER,
    Role,
    training_pod_name,
)


def build_worker(
    job: DistributedTrainingJob,
    options: BuildOptions,
    replica: int,
    *,
    attempt: int,
    replacements: int,
    role: Role = Role.WORKER,
) -> dict[str, Any]:
    """The pod of worker `replica` after so many attempts of the job and replacements of it.

    That of a spare differs by its name and its role alone, for it may become a worker; that of a
    parameter server by its resources, too.
    """
    spec = job.spec
    resources = spec.workers.resources
    if role is Role.SERVER and spec.parameter_servers is not None:
        resources = spec.parameter_servers.resources
    # Data loaders and NCCL share memory between processes; the default of 64 MiB is too small.
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 - the mount of shared memory
    if spec.checkpoint.volume is not None and options.checkpoint_root is None:
        volumes.append({"name": "checkpoints", **spec.checkpoint.volume.source()})
        mounts.append({"name": "checkpoints", "mountPath": CHECKPOINT_MOUNT})
    if spec.source is not None:
        volumes.append({"name": "source", **spec.source.source()})
        mounts.append({"name": "source", "mountPath": SOURCE_MOUNT, "readOnly": True})
    name = training_pod_name(
        job.metadata.name, role, replica, attempt=attempt, replacements=replacements
    )
    container: dict[str, Any] = {
        "name": TRAINING_CONTAINER,
        "image": spec.image or options.image,
        "command": [*options.python, "-m", "reknit.agent"],
        "env": training_environment(job, options, role, replica),
        "resources": resources.to_object(),
        "volumeMounts": mounts,
    }
    if spec.source is not None:
        # Python looks for modules first where it was started with -m.
        container["workingDir"] = SOURCE_MOUNT
    pod = build_pod(
        job,
        Place(role, replica, attempt, replacements),
        name=name,
        hostname=f"{role}-{replica}",
        container=container,
        volumes=volumes,
        grace=grace_period(spec),
    )
    if any("persistentVolumeClaim" in volume for volume in volumes):
        # A fresh volume belongs to root, and training does not run as root.
        pod["spec"]["securityContext"] |= {
            "fsGroup": RUNTIME_GROUP,
            "fsGroupChangePolicy": "OnRootMismatch",
        }
    return apply_template(pod, spec.workers.template)
