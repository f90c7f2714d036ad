"""What a run on this machine cannot do with a manifest, and what it does without: pure."""

from collections.abc import Iterator
from typing import Final

from reknit_operator.api.pods import TRAINING_CONTAINER
from reknit_operator.api.types import (
    ContainerTemplate,
    DistributedTrainingJob,
    PodTemplate,
    Resources,
    TemplateMetadata,
)

_TEMPLATE: Final = "workers.template"
_USED: Final = {"containers", "restartPolicy", "terminationGracePeriodSeconds"}
"""Fields of a pod's spec that mean something without a cluster, or are looked into one by one."""


def obstacles(job: DistributedTrainingJob) -> Iterator[str]:
    """A sentence for each thing that a run on this machine would wait for without end."""
    if job.spec.suspend:
        yield "spec.suspend: a suspended job has nothing to run, set suspend to false"
    for container in job.spec.workers.template.spec.containers:
        if container.name != TRAINING_CONTAINER:
            continue
        for variable in container.env:
            source = (variable.model_extra or {}).get("valueFrom")
            if isinstance(source, dict) and "fieldRef" not in source:
                yield (
                    f"spec.{_TEMPLATE}.spec.containers: the variable {variable.name} comes from "
                    "an object of a cluster, which a local run lacks, give it a value"
                )


def left_out(job: DistributedTrainingJob) -> Iterator[str]:
    """Paths below `spec` of what the manifest sets and a run on this machine leaves out."""
    spec = job.spec
    if spec.image is not None:
        yield "image"
    if spec.source is not None:
        yield "source"
    if spec.workers.resources != Resources():
        yield "workers.resources"
    yield from _template(spec.workers.template)
    if spec.parameter_servers and spec.parameter_servers.resources != Resources():
        yield "parameterServers.resources"
    if spec.checkpoint.volume is not None:
        yield "checkpoint.volume"
    if spec.scheduling.priority_class_name is not None:
        yield "scheduling.priorityClassName"


def _template(template: PodTemplate) -> Iterator[str]:
    if template.metadata != TemplateMetadata():
        yield f"{_TEMPLATE}.metadata"
    if any(map(_is_left_out, template.spec.containers)):
        yield f"{_TEMPLATE}.spec.containers"
    for name in template.spec.model_extra or {}:
        if name not in _USED:
            yield f"{_TEMPLATE}.spec.{name}"


def _is_left_out(container: ContainerTemplate) -> bool:
    """Whether there is more to it than variables of the training container."""
    return container.name != TRAINING_CONTAINER or bool(container.model_extra)
