"""Making a report from the folder of a run."""

import json
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reknit_operator.cli import rundir
from reknit_operator.cli.refusal import Refusal
from reknit_operator.cli.report.data import gather
from reknit_operator.cli.report.page import JobFacts, page
from reknit_operator.planning.plan import Plan


def write_report(run_dir: Path) -> Path:
    """Writes report.html into the folder and returns its path.

    Raises:
        Refusal: the folder holds no history.
        OSError: the file cannot be written.
    """
    records = rundir.HistoryTail(run_dir).fresh()
    if not records:
        raise Refusal([f"{run_dir}: holds no history of a run ({rundir.HISTORY})"])
    facts = read_facts(run_dir)
    name = facts.manifest.get("metadata", {}).get("name", run_dir.name)
    style = files("reknit_operator.cli.report").joinpath("style.css").read_text()
    report = run_dir / rundir.REPORT
    report.write_text(page(name, gather(name, records), facts, style))
    return report


def read_facts(run_dir: Path) -> JobFacts:
    """The job and its plan as the run has left them; what cannot be read is left out."""
    manifest: dict[str, Any] = {}
    plan = None
    with suppress(OSError, json.JSONDecodeError):
        manifest = json.loads((run_dir / rundir.MANIFEST).read_text())
    with suppress(OSError, ValidationError):
        plan = Plan.model_validate_json((run_dir / rundir.PLAN).read_text())
    return JobFacts(manifest, plan)
