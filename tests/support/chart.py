"""The chart as Helm renders it."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

import kubeprograms

CHART = Path(__file__).parents[2] / "helm" / "reknit"


class HelmError(Exception):
    """Helm has refused; the text says why."""


def helm(*arguments: str) -> str:
    """What Helm prints."""
    done = subprocess.run([kubeprograms.find("helm"), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def render(
    *settings: str, release: str = "reknit", monitoring: bool = False
) -> list[dict[str, Any]]:
    """All objects of a release in the namespace `reknit-system`."""
    arguments = ["template", release, str(CHART), "--namespace", "reknit-system"]
    for setting in settings:
        arguments += ["--set", setting]
    if monitoring:
        arguments += ["--api-versions", "monitoring.coreos.com/v1"]
    return [item for item in yaml.safe_load_all(helm(*arguments)) if item]
