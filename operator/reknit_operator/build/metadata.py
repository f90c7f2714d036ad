"""Names, labels and owners of a job's children."""

from typing import Any

from reknit_operator.api.types import API_VERSION, KIND, DistributedTrainingJob
from reknit_operator.constants import (
    LABEL_COMPONENT,
    LABEL_INSTANCE,
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    MANAGER,
)


def child_labels(job: DistributedTrainingJob, component: str) -> dict[str, str]:
    """The labels of every child of `job`."""
    return {
        LABEL_NAME: MANAGER,
        LABEL_INSTANCE: job.metadata.name,
        LABEL_COMPONENT: component,
        LABEL_MANAGED_BY: MANAGER,
        LABEL_JOB: job.metadata.name,
        LABEL_JOB_UID: job.metadata.uid,
    }


def child_selector(job: DistributedTrainingJob) -> dict[str, str]:
    """Labels that select the pods of `job`, and not those of an earlier job of the same name."""
    return {LABEL_JOB: job.metadata.name, LABEL_JOB_UID: job.metadata.uid}


def child_metadata(job: DistributedTrainingJob, name: str, component: str) -> dict[str, Any]:
    """Metadata of a child that goes away with its job."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": child_labels(job, component),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
