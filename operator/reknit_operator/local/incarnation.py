"""The last incarnation of a coordinator, in a file that outlives the process."""

import os
from pathlib import Path


class IncarnationFile:
    """Makes a later run in the same folder go on counting.

    On a full disk the number stays in memory and `save` tries again, so that training goes on.
    A checkpoint of that incarnation needs room as well, and more of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsaved: str | None = None
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why the latest number could not be written; None if it is in the file."""
        return self._failure

    def read(self) -> int | None:
        """The number that an earlier run has left; None if there was none."""
        try:
            return int(self._path.read_text())
        except FileNotFoundError:
            return None

    def keep(self, incarnation: str) -> None:
        """Makes a number durable, as soon as there is room."""
        self._unsaved = incarnation
        self.save()

    def save(self) -> None:
        """Tries again to write what is not in the file yet."""
        if self._unsaved is None:
            return
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("w") as stream:
                stream.write(self._unsaved)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(self._path)
        except OSError as error:
            self._failure = error.strerror or str(error)
        else:
            self._unsaved = self._failure = None
