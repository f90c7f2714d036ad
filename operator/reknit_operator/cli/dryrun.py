"""Running the user's function up to its first step, in a process of its own.

This process never imports torch, so it answers at once, and whatever the user's module does when
it is imported stays over there.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from reknit.agent.borrowing import Program, borrow
from reknit.agent.launcher import forkserver_environment
from reknit.protocol.inspection import INSPECTION_RESULT, Inspection, InspectionFailure
from reknit.protocol.settings import ENV_JOB, JobSettings
from reknit_operator.cli.refusal import Refusal
from reknit_operator.local.nursery import Nursery

KEPT_OUTPUT = 2000


def inspect_function(settings: JobSettings, folder: Path) -> Inspection:
    """What the function asks for; its module is looked for in `folder` first.

    Raises:
        Refusal: the function, its configuration or its data cannot be used, or it failed.
    """
    variables = environment(settings, folder, os.environ)
    return _judged(settings, *_run(variables))


def inspect_warm(settings: JobSettings, folder: Path, nursery: Nursery) -> Inspection:
    """The same in a fork of the nursery, which is started for it and stays warm for the job."""
    variables = environment(settings, folder, os.environ)
    nursery.start(variables)
    ran = _fork(variables, str(nursery.socket)) if nursery.is_up() else None
    return _judged(settings, *(ran or _run(variables)))


def _run(variables: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the dry run."""
    process = subprocess.run(
        # Without -P the current folder would come before the manifest's.
        [sys.executable, "-P", "-m", "reknit.inspection"],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def _fork(variables: Mapping[str, str], nursery: str) -> tuple[int, str, str] | None:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        descriptors = [output.fileno(), errors.fileno()]
        process = borrow(nursery, Program.INSPECTION, (), variables, descriptors=descriptors)
        if process is None:
            return None
        status = process.wait()
        for file in (output, errors):
            file.seek(0)
        return status, output.read().decode(), errors.read().decode(errors="replace")


def _judged(settings: JobSettings, status: int, output: str, errors: str) -> Inspection:
    try:
        found = INSPECTION_RESULT.validate_json(output)
    except ValidationError:
        raise Refusal(
            [f"the dry run of {settings.function} ended with {ending(status)}"],
            output=errors[-KEPT_OUTPUT:].strip(),
        ) from None
    if isinstance(found, InspectionFailure):
        raise Refusal(found.problems, found.traceback)
    return found


def environment(
    settings: JobSettings, folder: Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """What the dry run's process finds: what a rank's would, as far as it matters before a step."""
    path = [str(folder.resolve()), inherited.get("PYTHONPATH", "")]
    return {
        "OMP_NUM_THREADS": "1",
        **forkserver_environment(dict(inherited), settings),
        ENV_JOB: settings.model_dump_json(),
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
    }


def ending(code: int) -> str:
    """An exit status in words."""
    return f"signal {-code}" if code < 0 else f"exit status {code}"
