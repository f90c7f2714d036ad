"""Lays what a user's template asks for over the pod that Reknit builds."""

from typing import Any, Final

from reknit_operator.api.types import PodTemplate
from reknit_operator.constants import TRAINING_CONTAINER

_JOINED: Final = frozenset({"env", "envFrom", "volumes", "volumeMounts", "tolerations", "ports"})
"""Lists that are joined; every other list of the template takes the place of ours."""


def lay_over(base: Any, extra: Any, key: str = "") -> Any:
    """`extra` over `base`: mappings key by key, some lists joined, everything else replaced."""
    if isinstance(base, dict) and isinstance(extra, dict):
        merged = dict(base)
        for name, value in extra.items():
            merged[name] = lay_over(base[name], value, name) if name in base else value
        return merged
    if key in _JOINED and isinstance(base, list) and isinstance(extra, list):
        return [*base, *extra]
    return extra


def apply_template(pod: dict[str, Any], template: PodTemplate) -> dict[str, Any]:
    """A new pod: `pod` with the template's labels, annotations, containers and other fields.

    The template's container called `training` is laid over ours, others run beside it. Labels that
    Reknit sets itself win.
    """
    spec_extra = template.spec.to_object()
    containers = spec_extra.pop("containers", [])
    spec = lay_over(pod["spec"], spec_extra)
    ours = {container["name"]: container for container in spec["containers"]}
    for container in containers:
        name = container["name"]
        ours[name] = lay_over(ours[name], container) if name in ours else container
    spec["containers"] = [ours.pop(TRAINING_CONTAINER), *ours.values()]
    metadata = dict(pod["metadata"])
    metadata["labels"] = {**template.metadata.labels, **metadata["labels"]}
    if template.metadata.annotations:
        metadata["annotations"] = dict(template.metadata.annotations)
    return {**pod, "metadata": metadata, "spec": spec}
