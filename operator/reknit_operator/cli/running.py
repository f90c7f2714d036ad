"""`reknit run`: checks, runs, sums up."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

from rich.console import Console

from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.build.settings import grace_period
from reknit_operator.cli import rundir, summary
from reknit_operator.cli.cautions import show_cautions
from reknit_operator.cli.check import Checked, check
from reknit_operator.cli.display.output import OutputTail
from reknit_operator.cli.display.shown import LiveDisplay, PlainDisplay, display_for
from reknit_operator.cli.driving import Aborted, Interrupts, Session, drive, start
from reknit_operator.cli.dryrun import inspect_warm
from reknit_operator.cli.kills import Kill, parse
from reknit_operator.cli.localrun import left_out, obstacles
from reknit_operator.cli.manifests import read_job
from reknit_operator.cli.refusal import Refusal
from reknit_operator.cli.report.build import write_report
from reknit_operator.cli.words import plural
from reknit_operator.local.nursery import Nursery


def run(
    console: Console,
    errors: Console,
    file: Path,
    *,
    run_dir: Path | None,
    resume: bool,
    assignments: Sequence[str],
    kills: Sequence[str],
    metrics_port: int | None,
) -> int:
    """Runs a job on this machine and returns the exit status.

    Raises:
        Refusal: the job cannot run; nothing has been started.
    """
    # The name is needed to choose the folder, which the checks need in turn.
    job = read_job(file, assignments)
    problems = [f"{file}: {sentence}" for sentence in obstacles(job)]
    if problems:
        raise Refusal(problems)
    folder = rundir.choose(job.metadata.name, run_dir, resume=resume)
    wanted = parse(kills, job.spec.workers.world_size)
    # The processes of a shared nursery do not bear this session's mark, and are not killed.
    with Nursery() if wanted else Nursery.of(os.environ) as nursery:
        with console.status("checking the job"):
            inspect = partial(inspect_warm, nursery=nursery)
            checked = check(file, assignments, folder, inspect)
        show_cautions(errors, checked.cautions)
        with rundir.claimed(folder):
            _tell_left_out(console, checked.job)
            return _run(console, errors, file, checked, folder, wanted, metrics_port, nursery)


def _run(
    console: Console,
    errors: Console,
    file: Path,
    checked: Checked,
    folder: Path,
    kills: Sequence[Kill],
    metrics_port: int | None,
    nursery: Nursery,
) -> int:
    name = checked.job.metadata.name
    display = display_for(console, name, OutputTail(folder / "logs"))
    began = monotonic()
    try:
        with display:
            end = asyncio.run(
                _session(checked, file, folder, display, kills, metrics_port, nursery)
            )
    except Aborted:
        end = summary.Outcome(summary.ExitCode.STOPPED, f"{name} was ended at once")
    with suppress(OSError):
        nursery.keep_log(folder / "logs")
    report = _report(errors, folder)
    if end.code is not summary.ExitCode.CONFIGURATION:
        console.print()
        console.print(end.headline, style="bold", highlight=False, markup=False)
        found = dict(
            summary.facts(
                display.view,
                seconds=monotonic() - began,
                run_dir=folder,
                report=report,
                model=rundir.find_model(folder),
            )
        )
        width = max(map(len, found))
        for label, text in found.items():
            console.out(f"  {label:<{width}}  {text}", highlight=False)
        if end.code is summary.ExitCode.STOPPED:
            console.out(f"Go on with: reknit run {file} --resume --run-dir {folder}")
    else:
        Refusal([end.headline]).show(errors)
    if end.warning is not None:
        errors.print(end.warning, style="red", markup=False, highlight=False, soft_wrap=True)
    if end.traceback is not None:
        Refusal([], end.traceback).show(errors)
    return int(end.code)


def _tell_left_out(console: Console, job: DistributedTrainingJob) -> None:
    paths = ", ".join(left_out(job))
    if paths:
        console.print(f"A local run leaves out: {paths}", markup=False, soft_wrap=True)


def _report(errors: Console, folder: Path) -> Path | None:
    try:
        return write_report(folder)
    except OSError as error:
        errors.print(f"the report could not be written: {error}", markup=False, highlight=False)
    except Refusal:
        # The job ended before it had a history.
        pass
    return None


async def _session(
    checked: Checked,
    file: Path,
    folder: Path,
    display: PlainDisplay | LiveDisplay,
    kills: Sequence[Kill],
    metrics_port: int | None,
    nursery: Nursery,
) -> summary.Outcome:
    # Imported late: it brings an HTTP server, which other commands do without.
    from reknit_operator.local.session import LocalSession

    interrupts = Interrupts()
    session = LocalSession(
        checked.job,
        run_dir=folder,
        python_path=[file.parent],
        metrics_port=metrics_port,
        nursery=nursery,
    )
    await start(session)
    try:
        rundir.describe(folder, checked.job, checked.plan)
    except OSError as error:
        await session.close()
        raise Refusal([f"--run-dir: {folder} cannot be written ({error.strerror})"]) from None
    with interrupts.listening():
        job = await drive(
            session,
            display,
            kills=kills,
            grace=grace_period(checked.job.spec),
            interrupts=interrupts,
        )
    return replace(summary.outcome(job, session.records(0).records), warning=_unwritten(session))


def _unwritten(session: Session) -> str | None:
    """What a closed session could not leave in its folder."""
    failure, number = session.failure(), session.num_unwritten()
    if failure is None or not number:
        return failure
    return f"{failure}; its history lacks the last {plural(number, 'record')}"
