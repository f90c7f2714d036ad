"""Reknit in a cluster, by its chart.

Where a cluster is given by KUBECONFIG, these variables say what is different there:

E2E_OPERATOR_IMAGE, E2E_RUNTIME_IMAGE: images that its nodes have or can pull; those of `make
images` unless set.
E2E_MOUNTS: folders of the nodes, divided by colons, that training pods mount read-only under their
own names; none unless set. For a runtime image without torch.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chart import CHART, helm
from kubecluster import images
from kubecluster.waiting import until
from kubectl import Kubectl, Object

NAMESPACE: Final = "reknit-system"
TYPE: Final = "distributedtrainingjobs.reknit.dev"
KINDS: Final = (
    "deployments,pods,services,secrets,configmaps,serviceaccounts,roles,rolebindings,"
    "networkpolicies.networking.k8s.io,poddisruptionbudgets,leases,clusterroles,clusterrolebindings"
)
"""All that the chart or the operator makes."""


@dataclass(frozen=True)
class Images:
    """What runs in a cluster, and the folders of its nodes that the runtime image needs."""

    operator: str
    runtime: str
    folders: Sequence[Path]

    def values(self) -> list[str]:
        """Options of Helm."""
        values = []
        for value, image in (("image", self.operator), ("runtimeImage", self.runtime)):
            repository, _, tag = image.rpartition(":")
            values += [f"--set={value}.repository={repository}", f"--set={value}.tag={tag}"]
        return values

    def pod_template(self) -> Object:
        """What stands under `workers.template` for it."""
        if not self.folders:
            return {}
        volumes: list[dict[str, Any]] = []
        mounts: list[dict[str, Any]] = []
        for number, folder in enumerate(self.folders):
            name = f"python-{number}"
            volumes.append({"name": name, "hostPath": {"path": str(folder), "type": "Directory"}})
            mounts.append({"name": name, "mountPath": str(folder), "readOnly": True})
        container = {"name": "training", "volumeMounts": mounts}
        return {"spec": {"containers": [container], "volumes": volumes}}


OWN_IMAGES: Final = Images(images.OPERATOR, images.RUNTIME, images.mounts())


def given_images() -> Images:
    """Those that the variables name."""
    folders = os.environ.get("E2E_MOUNTS", "").split(":")
    return Images(
        os.environ.get("E2E_OPERATOR_IMAGE", "reknit/operator:0.1.0"),
        os.environ.get("E2E_RUNTIME_IMAGE", "reknit/runtime:0.1.0"),
        [Path(folder) for folder in folders if folder],
    )


@contextlib.contextmanager
def release(admin: Kubectl, name: str, namespace: str, values: Sequence[str]) -> Iterator[None]:
    """Installs the chart, and takes it out after the block; its type stays."""
    where = [name, f"--namespace={namespace}", f"--kubeconfig={admin.kubeconfig}"]
    waiting = ["--wait", "--timeout=3m"]
    helm("install", *where, *waiting, str(CHART), "--create-namespace", *values)
    try:
        yield
    finally:
        helm("uninstall", *where, *waiting)


def leftovers(kubectl: Kubectl, selector: str) -> list[str]:
    """What exists with these labels, anywhere in the cluster."""
    listed = kubectl("get", KINDS, "--all-namespaces", f"--selector={selector}", "--output=name")
    return listed.split()


def until_nothing_is_left(kubectl: Kubectl, selector: str, seconds: float = 60) -> None:
    """Waits until nothing with these labels exists any more."""

    def tell() -> str:
        return "\n".join(leftovers(kubectl, selector))

    until(lambda: not leftovers(kubectl, selector), seconds, tell)
