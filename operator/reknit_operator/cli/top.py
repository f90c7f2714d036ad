"""`reknit top`: watching a run from its folder."""

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console

from reknit_operator.cli import rundir
from reknit_operator.cli.display.lines import step_line
from reknit_operator.cli.display.shown import display_for
from reknit_operator.cli.refusal import Refusal
from reknit_operator.cli.report.build import read_facts

PERIOD: Final = timedelta(milliseconds=500)


def top(console: Console, run_dir: Path) -> None:
    """Shows a run until it ends, or what is left of one that has ended.

    Raises:
        Refusal: there is no run in the folder.
    """
    history = rundir.HistoryTail(run_dir)
    records = history.fresh()
    if not records and not rundir.is_claimed(run_dir):
        raise Refusal([f"{run_dir}: holds no history of a run ({rundir.HISTORY})"])
    name = read_facts(run_dir).manifest.get("metadata", {}).get("name", run_dir.name)
    with display_for(console, name) as display:
        display.show(records, None)
        while rundir.is_claimed(run_dir):
            time.sleep(PERIOD.total_seconds())
            display.show(history.fresh(), None)
        display.show(history.fresh(), None)
    # Nothing is left to be waited for, so no speed is told.
    last = step_line(replace(display.view, marks=()))
    console.out(f"{name} does not run any more: {last}", highlight=False)
