"""Reknit's runtime: what training code calls.

`import reknit` stays light; `Job` and `Engine`, which need torch, are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from reknit.cuts import Column, Row, Vocabulary
from reknit.errors import ConfigurationError, ReknitError

if TYPE_CHECKING:
    from reknit.job import Batch, Engine, Job

__all__ = [
    "Batch",
    "Column",
    "ConfigurationError",
    "Engine",
    "Job",
    "ReknitError",
    "Row",
    "Vocabulary",
]


def __getattr__(name: str) -> object:
    if name in {"Batch", "Engine", "Job"}:
        return getattr(import_module("reknit.job"), name)
    raise AttributeError(f"module 'reknit' has no attribute {name!r}")
