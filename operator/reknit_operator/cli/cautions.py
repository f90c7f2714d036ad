"""What can run, but is hardly meant: a sentence each, with a remedy."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from reknit_operator.cli.words import plural
from reknit_operator.planning.plan import Plan

_SCRIPTS: Final = (".py", ".sh")


def idle_work(plan: Plan) -> Iterator[str]:
    """Ranks for which a step has nothing to do in the end."""
    batch = plan.batch
    if batch is not None and batch.idle_ranks:
        number = len(batch.idle_ranks)
        yield (
            f"{plural(number, 'rank runs', 'ranks run')} a last pass of weight 0, so "
            f"{batch.idle_share:.0%} of the work is idle: lower batch.micro or workers"
        )


def missing_script(command: Sequence[str], beside: Path | None) -> Iterator[str]:
    """The script of a command that is not to be seen.

    Args:
        command: a program and its arguments.
        beside: the manifest's folder; None if the command is to start in the present folder.
    """
    script = next(filter(_is_script, command), None)
    if script is None or Path(script).is_file():
        return
    if beside is None:
        yield f"spec.entrypoint.command: there is no {script} in this folder, where it starts"
    elif not (beside / script).is_file():
        yield (
            f"spec.entrypoint.command: there is no {script} beside the manifest or in this folder, "
            "so it must be in the job's image or source"
        )


def missing_program(command: Sequence[str], variables: Mapping[str, str]) -> str | None:
    """Why a command cannot start in the present folder with these variables; None if it can."""
    program = command[0]
    if shutil.which(program, path=variables.get("PATH", os.defpath)) is not None:
        return None
    return f"spec.entrypoint.command: there is no program {program} on this machine"


def show_cautions(console: Console, cautions: Sequence[str]) -> None:
    """Prints them, one a line."""
    for caution in cautions:
        console.print(
            f"warning: {caution}", style="yellow", highlight=False, markup=False, soft_wrap=True
        )


def _is_script(part: str) -> bool:
    """A path that a program is given, and no option, shell line or variable of a pod."""
    return part.endswith(_SCRIPTS) and not part.startswith("-") and not set(part) & set(" $")
