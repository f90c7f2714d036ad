"""Everything that can be known of a job before anything is started."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import JobSettings
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli.cautions import idle_work, missing_program, missing_script
from reknit_operator.cli.dryrun import inspect_function
from reknit_operator.cli.manifests import local_settings, misdirected, read_job, with_config
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
    cautions: tuple[str, ...] = ()
    """What is hardly meant, a sentence each."""


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
        run_dir: where the job will run, on this machine and in the present folder; None if it may
            run in a cluster as well.
        inspect: makes the dry run; by default in a process of its own.

    Raises:
        Refusal: it cannot run.
    """
    written = read_job(file)
    job = with_config(written, assignments)
    if job.spec.entrypoint.command is not None and assignments:
        raise Refusal(["--set: a command gets no config, write its arguments into the manifest"])
    settings = local_settings(job, run_dir or file.parent / _NOWHERE)
    inspection = None
    if settings.function is not None:
        try:
            inspection = (inspect or inspect_function)(settings, file.parent)
        except Refusal as refusal:
            told = [f"{file}: {problem}" for problem in refusal.problems]
            raise Refusal(told, refusal.traceback, output=refusal.output) from None
        reason = obstacle(settings.sharding, inspection)
        if reason is not None:
            raise Refusal([f"{file}: spec.parallelism.sharding: {reason}"])
        found = cut_obstacle(settings.degrees, inspection)
        if found is not None:
            axis, reason = found
            raise Refusal([f"{file}: spec.parallelism.{axis}: {reason}"])
    # A config without a type takes whatever it is given.
    config_fields = inspection.config_fields if inspection else ()
    if problems := list(misdirected(assignments, written.spec.entrypoint.config, config_fields)):
        raise Refusal(problems)
    only_local = run_dir is None and job.spec.checkpoint.volume is None
    plan = make_plan(settings, inspection, only_local=only_local)
    cautions = list(idle_work(plan))
    if settings.command is not None:
        if run_dir is not None:
            _refuse_missing_program(job, settings.command, file)
        cautions += missing_script(settings.command, file.parent if run_dir is None else None)
    return Checked(job, settings, inspection, plan, tuple(cautions))


def _refuse_missing_program(
    job: DistributedTrainingJob, command: Sequence[str], file: Path
) -> None:
    added = job.spec.workers.template.spec.containers
    has_own_path = any(variable.name == "PATH" for each in added for variable in each.env)
    reason = missing_program(command, os.environ)
    if reason is not None and not has_own_path:
        raise Refusal([f"{file}: {reason}"])
