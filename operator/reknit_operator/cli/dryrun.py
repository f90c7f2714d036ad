"""Running the user's function up to its first step, in a process of its own.

This process never imports torch, so it answers at once, and whatever the user's module does when
it is imported stays over there.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from reknit.agent.launcher import forkserver_environment
from reknit.protocol.inspection import INSPECTION_RESULT, Inspection, InspectionFailure
from reknit.protocol.settings import ENV_JOB, JobSettings
from reknit_operator.cli.refusal import Refusal

KEPT_OUTPUT = 2000


def inspect_function(settings: JobSettings, folder: Path) -> Inspection:
    """What the function asks for; its module is looked for in `folder` first.

    Raises:
        Refusal: the function, its configuration or its data cannot be used, or it failed.
    """
    process = subprocess.run(
        # Without -P the current folder would come before the manifest's.
        [sys.executable, "-P", "-m", "reknit.inspection"],
        env=environment(settings, folder, os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    try:
        found = INSPECTION_RESULT.validate_json(process.stdout)
    except ValidationError:
        output = process.stderr[-KEPT_OUTPUT:].strip()
        raise Refusal(
            [f"the dry run of {settings.function} ended with {ending(process.returncode)}"],
            traceback=output or None,
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
