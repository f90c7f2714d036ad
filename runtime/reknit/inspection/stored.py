"""Whether the checkpoint that a job would go on from belongs to its model."""

from pathlib import Path
from typing import Final

from reknit.checkpoint.reader import newest
from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import CheckpointSettings
from reknit.state.fitting import first_difference, mismatch

_PARAMETER: Final = "param/"


def check_stored(checkpoint: CheckpointSettings | None, found: Inspection) -> None:
    """Compares the parameters with those of the newest complete checkpoint, if there is one.

    Every strategy stores them alike: whole, tied ones under the first of their names, frozen ones
    too. Buffers and optimizer state depend on more and are left to the ranks.

    Raises:
        CheckpointMismatchError: it is one of another model.
        ConfigurationError: the folder cannot be read.
    """
    if checkpoint is None:
        return
    # Contents are only read if there is something to say: ranks pass over a damaged checkpoint.
    if _difference(checkpoint.path, found, verify_contents=False) is None:
        return
    told = _difference(checkpoint.path, found, verify_contents=True)
    if told is not None:
        raise mismatch(*told)


def _difference(
    folder: str, found: Inspection, *, verify_contents: bool
) -> tuple[Path, str] | None:
    """The newest complete checkpoint and how it differs; None if it fits, or if there is none."""
    info = newest(folder, verify_contents=verify_contents)
    if info is None:
        return None
    expected = {_PARAMETER + parameter.name: parameter.shape for parameter in found.parameters}
    specs = info.manifest.specs
    stored = {name: spec for name, spec in specs.items() if name.startswith(_PARAMETER)}
    difference = first_difference(expected, stored)
    return None if difference is None else (info.path, difference)
