"""Manifests of the job that tests of a cluster follow, with its code in a ConfigMap."""

import copy
from pathlib import Path
from typing import Any, Final

from kubectl import Object

ROOT: Final = Path(__file__).parents[2]
CODE: Final = "tracked-code"
HOLD: Final = {"hold_step": 20}
"""Config of a job that waits there until `ClusterJob.release`."""


def code() -> Object:
    """The ConfigMap."""
    files = [ROOT / "tests/e2e/job/tracked.py", ROOT / "examples/gpt_bytes/gpt_bytes.py"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CODE},
        "data": {file.name: file.read_text() for file in files},
    }


def manifest(
    name: str, template: Object, config: dict[str, Any] | None = None, **spec: Any
) -> Object:
    """Two ranks on two workers under ZeRO-2, unless `spec` says otherwise.

    Args:
        name: of the job.
        template: laid under `spec.workers.template`.
        config: of the function.
        spec: parts of the job's spec; `workers` is merged.
    """
    workers = {"replicas": 2, "template": copy.deepcopy(template), **spec.pop("workers", {})}
    return {
        "apiVersion": "reknit.dev/v1alpha1",
        "kind": "DistributedTrainingJob",
        "metadata": {"name": name},
        "spec": {
            "entrypoint": {"function": "tracked:train", "config": config or {}},
            "source": {"configMap": {"name": CODE}},
            "parallelism": {"sharding": "ZeRO2"},
            "batch": {"global": 8, "micro": 2},
            "workers": workers,
            **spec,
        },
    }
