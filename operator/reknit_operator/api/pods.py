"""The pods of a job: workers, spares, parameter servers, and what a user sets on a pod."""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, WithJsonSchema

from reknit.parameter_server.formats import Compression
from reknit.parameter_server.table import Consistency
from reknit.protocol.base import Json
from reknit_operator.api.base import INT_MAX, Name, Open, Part, keyed_by

QUANTITY_PATTERN = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"

Quantity: TypeAlias = Annotated[
    int | Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=32)],
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN, "maxLength": 32}
    ),
]
"""An amount of a resource: a number, or text like 500m or 16Gi."""

ResourceList: TypeAlias = Annotated[dict[Name, Quantity], Field(max_length=32)]
LabelMap: TypeAlias = Annotated[
    dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=63)]],
    Field(max_length=64),
]
AnnotationMap: TypeAlias = Annotated[
    dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=16384)]],
    Field(max_length=64),
]


Arguments: TypeAlias = Annotated[
    tuple[Annotated[str, Field(max_length=32768)], ...], Field(max_length=256)
]

TRAINING_CONTAINER: Final = "training"
"""Name of the container that Reknit puts into every pod with ranks."""


class Resources(Part):
    """What the training container of a pod asks for."""

    requests: ResourceList = Field(default_factory=dict)
    """What the scheduler sets aside, like cpu: 4 or memory: 16Gi."""
    limits: ResourceList = Field(default_factory=dict)
    """What the container may use at most; extended resources like nvidia.com/gpu go here."""


class EnvironmentVariable(Open):
    """One variable; only its name means something to Reknit."""

    name: Name
    """Name of the variable; names that Reknit sets itself are refused."""


class ContainerTemplate(Open):
    """A container of the pod; the one called `training` is laid over the training container."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the container."""
    image: Annotated[str, Field(max_length=1024)] | None = None
    """Image; spec.image for the training container."""
    command: Arguments | None = None
    """Program; spec.entrypoint for the training container."""
    args: Arguments | None = None
    """Arguments; spec.entrypoint for the training container."""
    resources: dict[str, Json] | None = None
    """Resources; spec.workers.resources for the training container."""
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=256)] = ()
    """Environment variables."""


class PodSpecTemplate(Open):
    """A pod's spec; fields not listed here are passed on to Kubernetes as they are."""

    restart_policy: Literal["Never"] | None = None
    """Never; nothing else is possible, because the operator replaces failed pods itself."""
    containers: Annotated[
        tuple[ContainerTemplate, ...],
        Field(max_length=16, json_schema_extra=keyed_by("name")),
    ] = ()
    """Containers: what to add to the one called `training`, and others to run beside it."""


class TemplateMetadata(Part):
    """Labels and annotations that every pod gets."""

    labels: LabelMap = Field(default_factory=dict)
    """Labels of the pods."""
    annotations: AnnotationMap = Field(default_factory=dict)
    """Annotations of the pods."""


class PodTemplate(Part):
    """What a pod gets besides what Reknit puts into it."""

    metadata: TemplateMetadata = TemplateMetadata()
    """Labels and annotations."""
    spec: PodSpecTemplate = PodSpecTemplate()
    """Volumes, tolerations, node selectors, security context and the like."""


class Workers(Part):
    """The pods that train."""

    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of worker pods."""
    min_replicas: Annotated[int, Field(ge=1, le=1024)] | None = None
    """The fewest worker pods that training goes on with when recovery.onLoss is Shrink."""
    processes_per_replica: Annotated[int, Field(ge=1, le=64)] = 1
    """Ranks in each pod, usually one per GPU."""
    resources: Resources = Resources()
    """What the training container of each pod asks for; a change is for pods created after it."""
    template: PodTemplate = PodTemplate()
    """What the pods get besides what Reknit puts into them; a change is for pods created after it.
    """

    @property
    def world_size(self) -> int:
        """Ranks of the full job."""
        return self.replicas * self.processes_per_replica

    @property
    def fewest_replicas(self) -> int:
        """`min_replicas`, or all replicas where it is not given."""
        return self.replicas if self.min_replicas is None else self.min_replicas


class Spares(Part):
    """Warm pods that take the place of lost ones."""

    replicas: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of spare pods."""


class ParameterServers(Part):
    """The pods that keep the parameters, which workers pull and push gradients for.

    Beside their own resources they get what workers.template asks for.
    """

    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of server pods; the parameters are divided into as many ranges."""
    consistency: Consistency = Consistency.SYNCHRONOUS
    """When pushes take effect: all workers' of a step together, or each one at once."""
    max_staleness: Annotated[int, Field(ge=0, le=INT_MAX)] | None = None
    """Under StaleSynchronous, steps that a worker may be ahead of the slowest one."""
    copies: Annotated[int, Field(ge=1, le=2)] = 2
    """Servers that hold each range: 2, a primary and its backup, or 1."""
    compression: Compression = Compression.NONE
    """Number format in which gradients travel to the servers."""
    resources: Resources = Resources()
    """What the container of each pod asks for."""


class ClaimVolume(Part):
    """A PersistentVolumeClaim of the job's namespace that all workers can mount."""

    claim_name: Name
    """Name of the claim."""


class NfsVolume(Part):
    """A folder of an NFS server."""

    server: Name
    """Host name or address of the server."""
    path: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")]
    """Absolute path on the server."""


class HostVolume(Part):
    """A folder of the node; it holds the same files on every node only if something shares it."""

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern="^/")]
    """Absolute path on the node."""


class ConfigMapVolume(Part):
    """A ConfigMap of the job's namespace; each of its keys becomes a file."""

    name: Name
    """Name of the ConfigMap."""


class Volume(Part):
    """Where files live that outlast a pod; exactly one kind is given."""

    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim that all workers can mount."""
    nfs: NfsVolume | None = None
    """A folder of an NFS server."""
    host_path: HostVolume | None = None
    """A folder of the node."""

    def source(self) -> dict[str, Any]:
        """The fields of a pod's volume that name this source."""
        return self.to_object()


class Source(Volume):
    """Where the user's code lives; exactly one kind is given."""

    config_map: ConfigMapVolume | None = None
    """A ConfigMap whose keys are the names of the files."""
