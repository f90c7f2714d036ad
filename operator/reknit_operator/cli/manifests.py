"""Reading a manifest, with what the command line adds to it."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from reknit.protocol.settings import JobSettings
from reknit.strategies.deepspeed_config import contradictions
from reknit_operator.api.load import ManifestError, load_manifest
from reknit_operator.api.types import DistributedTrainingJob, JobSpec
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.settings import job_settings
from reknit_operator.cli.refusal import Refusal


def read_job(file: Path, assignments: Sequence[str] = ()) -> DistributedTrainingJob:
    """The job in `file`, its config changed by `assignments` of the form key=value.

    Raises:
        Refusal: the file cannot be read, the manifest is wrong, or an assignment is.
    """
    try:
        text = file.read_text()
    except FileNotFoundError:
        raise Refusal([f"{file}: there is no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal([f"{file}: cannot be read ({error})"]) from None
    try:
        job = load_manifest(text)
    except ManifestError as error:
        raise Refusal([f"{file}: {problem}" for problem in error.problems]) from None
    return with_config(job, assignments)


def with_config(job: DistributedTrainingJob, assignments: Sequence[str]) -> DistributedTrainingJob:
    """The job with its config changed by `assignments`.

    Raises:
        Refusal: an assignment is wrong.
    """
    config = dict(job.spec.entrypoint.config)
    for assignment in assignments:
        assign(config, assignment)
    entrypoint = job.spec.entrypoint.model_copy(update={"config": config})
    spec = job.spec.model_copy(update={"entrypoint": entrypoint})
    return job.model_copy(update={"spec": spec})


def assign(config: dict[str, Any], assignment: str) -> None:
    """Sets one value in `config`; `a.b=1` sets `b` of the mapping `a`, and values are YAML.

    Raises:
        Refusal: the assignment has no value, or its path leads through something else.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not all(path.split(".")):
        raise Refusal([f"--set: must be key=value, not {assignment!r}"])
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise Refusal([f"--set {path}: {text!r} is no value; quote it"]) from None
    *parents, last = path.split(".")
    place = config
    for parent in parents:
        inner = place.get(parent, {})
        if not isinstance(inner, dict):
            raise Refusal([f"--set {path}: {parent} is no mapping"])
        place[parent] = place = dict(inner)
    place[last] = value


def misdirected(
    assignments: Sequence[str], given: Collection[str], config_fields: Collection[str]
) -> Iterator[str]:
    """A sentence for each assignment that is meant for the spec, and would do nothing.

    Args:
        assignments: of the form key=value.
        given: names in the manifest's own entrypoint.config.
        config_fields: those of the type that the function has for its configuration.
    """
    of_spec = {field.alias or name for name, field in JobSpec.model_fields.items()}
    for assignment in assignments:
        path = assignment.partition("=")[0]
        name = path.partition(".")[0]
        if name in {"spec", *of_spec} - {*given, *config_fields}:
            field = path.removeprefix("spec.")
            remedy = (
                f"write --set {field.removeprefix('entrypoint.config.')}"
                if field.startswith("entrypoint.config.")
                else f"edit spec.{field} in the manifest"
            )
            yield f"--set {path}: changes entrypoint.config only; {remedy}"


def local_settings(job: DistributedTrainingJob, run_dir: Path) -> JobSettings:
    """The job as its pods on this machine see it.

    Raises:
        Refusal: the DeepSpeed configuration contradicts the rest.
    """
    settings = job_settings(job, BuildOptions(checkpoint_root=str(run_dir / "checkpoints")))
    problems = contradictions(
        settings.deepspeed_config,
        sharding=settings.sharding,
        precision=settings.precision,
        batch=settings.batch,
    )
    if problems:
        raise Refusal(problems)
    return settings
