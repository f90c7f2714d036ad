"""From the text of a manifest to a job that can run."""

from reknit_operator.api.manifest import read_document
from reknit_operator.api.problems import ManifestError, Problem
from reknit_operator.api.shape import parse_object
from reknit_operator.api.types import API_VERSION, KIND, DistributedTrainingJob
from reknit_operator.api.validation import validate

__all__ = ["ManifestError", "Problem", "load_manifest", "parse_object"]


def load_manifest(text: str) -> DistributedTrainingJob:
    """The job that a manifest in YAML or JSON describes, checked in every way that needs no run.

    Raises:
        ManifestError: the text is no YAML, a field is wrong, or fields contradict each other.
    """
    document = read_document(text)
    missing = [
        Problem(field, f"this field is required, write {value}")
        for field, value in (("apiVersion", API_VERSION), ("kind", KIND))
        if field not in document
    ]
    if missing:
        raise ManifestError(missing)
    job = parse_object(document)
    if problems := validate(job):
        raise ManifestError(problems)
    return job
