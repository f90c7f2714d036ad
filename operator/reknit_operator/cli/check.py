"""Everything that can be known of a job before anything is started."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import JobSettings
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli.dryrun import inspect_function
from reknit_operator.cli.manifests import local_settings, read_job
from reknit_operator.cli.refusal import Refusal
from reknit_operator.planning.plan import Plan, cut_obstacle, make_plan, obstacle

_NOWHERE: Final = "runs"
"""Stands for a run's folder where nothing is written."""


@dataclass(frozen=True)
class Checked:
    """A job that can run."""

    job: DistributedTrainingJob
    settings: JobSettings
    inspection: Inspection | None
    """None for a command."""
    plan: Plan


def check(
    file: Path,
    assignments: Sequence[str],
    run_dir: Path | None,
    inspect: Callable[[JobSettings, Path], Inspection] | None = None,
) -> Checked:
    """Reads, validates and inspects a job.

    Args:
        file: the manifest.
        assignments: values of its configuration that are to be others.
        run_dir: where the job will run; None if it may run in a cluster as well.
        inspect: makes the dry run; by default in a process of its own.

    Raises:
        Refusal: it cannot run.
    """
    job = read_job(file, assignments)
    settings = local_settings(job, run_dir or file.parent / _NOWHERE)
    inspection = None
    if settings.function is not None:
        inspection = (inspect or inspect_function)(settings, file.parent)
        reason = obstacle(settings.sharding, inspection)
        if reason is not None:
            raise Refusal([f"{file}: spec.parallelism.sharding: {reason}"])
        found = cut_obstacle(settings.degrees, inspection)
        if found is not None:
            axis, reason = found
            raise Refusal([f"{file}: spec.parallelism.{axis}: {reason}"])
    only_local = run_dir is None and job.spec.checkpoint.volume is None
    plan = make_plan(settings, inspection, only_local=only_local)
    return Checked(job, settings, inspection, plan)
