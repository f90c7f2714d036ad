"""Where each kind of object lives in the API, and what the operator keeps of it."""

from dataclasses import dataclass
from typing import Final

from reknit_operator.api.types import GROUP, PLURAL, VERSION
from reknit_operator.constants import Kind
from reknit_operator.reconcile.client import Object
from reknit_operator.reconcile.observed import Ref


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind's place in the API; the core group's name is empty."""

    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """As it stands in objects."""
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCES: Final = {
    Kind.JOB: Resource(GROUP, VERSION, PLURAL),
    Kind.POD: Resource("", "v1", "pods"),
    Kind.SERVICE: Resource("", "v1", "services"),
    Kind.SECRET: Resource("", "v1", "secrets"),
    Kind.NETWORK_POLICY: Resource("networking.k8s.io", "v1", "networkpolicies"),
    Kind.DISRUPTION_BUDGET: Resource("policy", "v1", "poddisruptionbudgets"),
}
_KEPT: Final = {Kind.JOB: ("spec", "status"), Kind.POD: ("status",), Kind.SECRET: ("data",)}
EVENTS: Final = Resource("", "v1", "events")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")


def collection_path(resource: Resource, namespace: str | None) -> str:
    """Path of all objects of a namespace, or with None of all namespaces."""
    root = f"/apis/{resource.group}" if resource.group else "/api"
    where = "" if namespace is None else f"/namespaces/{namespace}"
    return f"{root}/{resource.version}{where}/{resource.plural}"


def object_path(ref: Ref) -> str:
    """Path of one object."""
    return f"{collection_path(RESOURCES[ref.kind], ref.namespace)}/{ref.name}"


def slim(item: Object, kind: Kind) -> Object:
    """What the operator looks at of an object, so that ten thousand pods fit into its memory.

    Items of a list say neither their kind nor their version; here each does.
    """
    metadata = {
        name: value
        for name, value in item["metadata"].items()
        if name not in ("managedFields", "annotations")
    }
    kept: Object = {
        "apiVersion": RESOURCES[kind].api_version,
        "kind": str(kind),
        "metadata": metadata,
    }
    if kind is Kind.POD:
        kept["spec"] = {"nodeName": item.get("spec", {}).get("nodeName", "")}
    return kept | {name: item[name] for name in _KEPT.get(kind, ()) if name in item}
